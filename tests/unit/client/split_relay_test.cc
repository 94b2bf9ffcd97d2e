// The device's way to the split server, with workers that are a few lines of shell and a listener in this process.
#include "client/split/relay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <csignal>
#include <mutex>

#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::client {
namespace {

using protocol::Eventually;

// A frame of the worker's pipe, of at most 7 bytes, as printf's text: 8 bytes of length, then the bytes.
std::string Frame(const std::string& text) { return "\\" + std::to_string(text.size()) + R"(\0\0\0\0\0\0\0)" + text; }

class SplitRelay : public testing::Test {
 protected:
  // As the programs do: a worker that is gone is an error of a write.
  static void SetUpTestSuite() { ::signal(SIGPIPE, SIG_IGN); }

  SplitRelay() {
    pki_.Enrol("phone-1");
    protocol::ListenerOptions options;
    options.tls = pki_.ServerTls();
    options.max_in_flight = 4;
    options.socket.max_frame_bytes = 6;
    listener_ =
        std::make_unique<protocol::FrameListener>(server_.io(), server_.io().get_executor(), options,
                                                  [this](const std::string& /*device*/, std::string frame, auto reply) {
                                                    std::lock_guard lock(mutex_);
                                                    taken_.push_back(frame);
                                                    if (unasked_) reply("unasked");
                                                    if (answers_) return reply("answer to " + frame);
                                                    held_.push_back(std::move(reply));
                                                  });
    EXPECT_TRUE(listener_->Start().ok());
    relay_.server.host = "127.0.0.1";
    relay_.server.port = listener_->port();
    relay_.server.tls = pki_.ClientTls("phone-1");
    relay_.retry_base = relay_.retry_max = Seconds(0.001);
  }
  ~SplitRelay() override {
    listener_->Stop();
    server_.Join();
  }

  Status Run(const std::string& script) {
    relay_.worker = {"/bin/sh", "-c", script};
    return RelaySplit(relay_);
  }
  std::vector<std::string> taken() {
    std::lock_guard lock(mutex_);
    return taken_;
  }

  protocol::Pki pki_;
  protocol::Threads server_;
  std::unique_ptr<protocol::FrameListener> listener_;
  RelayOptions relay_;
  std::atomic<bool> answers_{true}, unasked_{false};  // the latter: and says something else too
  std::mutex mutex_;
  std::vector<std::string> taken_;
  std::vector<protocol::FrameListener::Reply> held_;
};

// Reads "answer to" five letters.
const std::string kReads = "head -c 23 > /dev/null";

// Reads the word that there is a new connection, 8 bytes of zeros, and says so back.
const std::string kGreets = R"([ $(head -c 8 | wc -c) -eq 8 ] && printf '\0\0\0\0\0\0\0\0')";

TEST_F(SplitRelay, CarriesFramesBothWaysAtOnceUntilTheWorkerIsDone) {
  // Two frames before any answer is read, and a third after the first.
  const Status status =
      Run(kGreets + "; printf '" + Frame("hello") + Frame("early") + "'; head -c 23 | grep -aq 'hello$' && printf '" +
          Frame("later") + "'; " + kReads + "; " + kReads);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taken(), (std::vector<std::string>{"hello", "early", "later"}));
}

TEST_F(SplitRelay, WhatBelongsToAnOldConnectionIsNotSentOnANewOne) {
  // The server closes on a frame that is too long; on the second connection a frame of the first comes before the
  // worker has heard of it.
  const Status status = Run(kGreets + "; printf '" + Frame("hello") + "'; " + kReads + "; printf '" + Frame("toolong") +
                            "'; head -c 8 > /dev/null; printf '" + Frame("stale") + R"(\0\0\0\0\0\0\0\0)" +
                            Frame("again") + "'; " + kReads);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taken(), (std::vector<std::string>{"hello", "again"}));
}

TEST_F(SplitRelay, AServerThatDoesNotAnswerIsLeft) {
  answers_ = false;
  relay_.answer_timeout = Seconds(0.1);
  relay_.go_on = [this] { return taken().size() < 2; };
  EXPECT_EQ(Run(kGreets + "; printf '" + Frame("hello") + "'; " + kGreets + "; printf '" + Frame("again") +
                "'; head -c 8 > /dev/null")
                .code(),
            Code::kCancelled);
  EXPECT_EQ(taken(), (std::vector<std::string>{"hello", "again"}));
}

// Whatever it sends while the worker computes would wait in memory.
TEST_F(SplitRelay, AServerThatSendsWhatNobodyAskedForEndsIt) {
  unasked_ = true;
  int asked = 0;
  relay_.go_on = [&asked] { return ++asked < 200; };  // it does not last for ever when it fails
  const Status status = Run(kGreets + "; printf '" + Frame("hello") + "'; exec sleep 600");
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("answers nothing"), std::string::npos) << status;
}

TEST_F(SplitRelay, AConnectionWithMoreOnTheWayThanThePlanSaysIsGivenUp) {
  answers_ = false;
  relay_.max_on_the_way = 2;
  int asked = 0;
  relay_.go_on = [&asked] { return ++asked < 200; };
  const Status status =
      Run(kGreets + "; printf '" + Frame("hello") + Frame("early") + Frame("later") + "'; " + kGreets + "; exit 0");
  EXPECT_TRUE(status.ok()) << status;
  const auto all = taken();
  EXPECT_EQ(std::count(all.begin(), all.end(), "later"), 0);
}

// Each of these would last ten minutes, or for ever.
TEST_F(SplitRelay, IsStoppedWhileTheServerComputes) {
  answers_ = false;
  relay_.go_on = [this] { return taken().empty(); };
  EXPECT_EQ(Run(kGreets + "; printf '" + Frame("hello") + "'; exec cat").code(), Code::kCancelled);
}

TEST_F(SplitRelay, IsStoppedWhileTheWorkerComputes) {
  std::atomic<int> asked = 0;
  relay_.go_on = [this, &asked] { return taken().empty() || ++asked < 3; };
  EXPECT_EQ(Run(kGreets + "; printf '" + Frame("hello") + "'; " + kReads + "; exec sleep 600").code(),
            Code::kCancelled);
}

TEST_F(SplitRelay, IsStoppedWhileItConnects) {
  boost::asio::io_context io;
  boost::asio::ip::tcp::acceptor silent(io, {boost::asio::ip::address_v4::loopback(), 0});  // shakes no hands
  relay_.server.port = silent.local_endpoint().port();
  relay_.socket.handshake_timeout = Seconds(600);
  int asked = 0;
  relay_.go_on = [&asked] { return ++asked < 3; };
  EXPECT_EQ(Run("exec cat").code(), Code::kCancelled);
}

TEST_F(SplitRelay, IsStoppedBetweenConnections) {
  boost::asio::io_context io;
  boost::asio::ip::tcp::socket closed(io);  // has a port, and does not listen
  closed.open(boost::asio::ip::tcp::v4());
  closed.bind({boost::asio::ip::address_v4::loopback(), 0});
  relay_.server.port = closed.local_endpoint().port();
  relay_.retry_base = relay_.retry_max = Seconds(600);
  int asked = 0;
  relay_.go_on = [&asked] { return ++asked < 5; };
  EXPECT_EQ(Run("exec cat").code(), Code::kCancelled);
}

TEST_F(SplitRelay, AWorkerThatIsStoppedWithItHasNotFailed) {
  relay_.go_on = [this] { return taken().empty(); };
  EXPECT_EQ(Run(kGreets + "; printf '" + Frame("hello") + "'; " + kReads + "; kill -TERM $$").code(), Code::kCancelled);
}

TEST_F(SplitRelay, AWorkerThatFailsEndsIt) {
  const Status status = Run(kGreets + "; printf '" + Frame("hello") + "'; " + kReads + "; exit 3");
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_NE(status.message().find("status 3"), std::string::npos) << status;
  EXPECT_EQ(taken(), std::vector<std::string>{"hello"});
}

TEST_F(SplitRelay, AServerThatDoesNotKnowTheCertificateEndsIt) {
  const protocol::Pki others("Another authority");
  others.Enrol("phone-1");
  protocol::ClientTlsOptions options;
  options.ca_pem = pki_.authority().certificate_pem();
  options.certificate = others.dir() / "phone-1.crt";
  options.key = others.dir() / "phone-1.key";
  relay_.server.tls = protocol::Pki::Value(protocol::MakeClientTls(options));
  EXPECT_EQ(Run("head -c 8 > /dev/null").code(), Code::kUnauthenticated);
  EXPECT_TRUE(taken().empty());
}

}  // namespace
}  // namespace heddle::client
