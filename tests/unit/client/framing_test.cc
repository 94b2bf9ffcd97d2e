// Frames between daemon and worker, hostile lengths included.
#include "client/worker/framing.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "common/file.h"
#include "protocol/limits.h"
#include "protocol/v1/worker.pb.h"

namespace heddle::client {
namespace {

struct Pipe {
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    read_end = UniqueFd(fds[0]);
    write_end = UniqueFd(fds[1]);
  }
  void Put(std::string_view bytes) const {
    ASSERT_EQ(::write(write_end.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  UniqueFd read_end, write_end;
};

v1::WorkerEvent Done(const std::string& message) {
  v1::WorkerEvent event;
  event.mutable_done()->set_code(3);
  event.mutable_done()->set_message(message);
  return event;
}

TEST(Framing, HeadIsTheLengthLittleEndian) {
  const Result<std::string> frame = MakeFrame(Done(std::string(300, 'x')));
  ASSERT_TRUE(frame.ok());
  const size_t size = Done(std::string(300, 'x')).ByteSizeLong();
  ASSERT_EQ(frame->size(), size + 4);
  EXPECT_EQ(static_cast<unsigned char>((*frame)[0]), size & 0xFF);
  EXPECT_EQ(static_cast<unsigned char>((*frame)[1]), size >> 8);
  EXPECT_EQ((*frame)[2], 0);
  EXPECT_EQ((*frame)[3], 0);
}

TEST(Framing, MessagesComeOutAsTheyWentIn) {
  Pipe pipe;
  std::thread writer([&] {
    for (size_t size : {0u, 1u, 1000u, 900'000u})
      ASSERT_TRUE(WriteFrame(pipe.write_end.get(), Done(std::string(size, 'm'))).ok());
    pipe.write_end.Reset();
  });
  FrameReader reader(pipe.read_end.get());
  std::string body;
  for (size_t size : {0u, 1u, 1000u, 900'000u}) {
    const Result<bool> more = reader.Next(&body);
    ASSERT_TRUE(more.ok() && *more);
    EXPECT_EQ(body, Done(std::string(size, 'm')).SerializeAsString());
  }
  const Result<bool> more = reader.Next(&body);
  ASSERT_TRUE(more.ok());
  EXPECT_FALSE(*more);
  writer.join();
}

TEST(Framing, LengthBeyondTheLimitIsRefusedBeforeAnyBodyIsRead) {
  for (uint32_t length : {static_cast<uint32_t>(protocol::kMaxWorkerMessageBytes) + 1, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
    Pipe pipe;
    char head[4];
    for (int i = 0; i < 4; ++i) head[i] = static_cast<char>(length >> (8 * i));
    pipe.Put({head, 4});
    FrameReader reader(pipe.read_end.get());  // the writer stays open: waiting for the body would hang
    std::string body;
    EXPECT_EQ(reader.Next(&body).status().code(), Code::kResourceExhausted) << length;
    EXPECT_TRUE(body.empty());
  }
}

TEST(Framing, StreamThatEndsInsideAFrameIsDataLoss) {
  const std::string frame = *MakeFrame(Done("hello"));
  for (size_t cut = 1; cut < frame.size(); ++cut) {
    Pipe pipe;
    pipe.Put(std::string_view(frame).substr(0, cut));
    pipe.write_end.Reset();
    FrameReader reader(pipe.read_end.get());
    std::string body;
    EXPECT_EQ(reader.Next(&body).status().code(), Code::kDataLoss) << cut;
  }
}

TEST(Framing, FrameArrivingByteByByteIsRead) {
  Pipe pipe;
  const std::string frame = *MakeFrame(Done("slowly"));
  std::thread writer([&] {
    for (char c : frame) pipe.Put({&c, 1});
  });
  FrameReader reader(pipe.read_end.get());
  std::string body;
  ASSERT_TRUE(*reader.Next(&body));
  EXPECT_EQ(body, Done("slowly").SerializeAsString());
  writer.join();
}

TEST(Framing, MessageTooLargeIsNotWritten) {
  Pipe pipe;
  const Status status = WriteFrame(pipe.write_end.get(), Done(std::string(protocol::kMaxWorkerMessageBytes, 'x')));
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
}

TEST(Framing, WriterLearnsThatNobodyReads) {
  ::signal(SIGPIPE, SIG_IGN);
  Pipe pipe;
  pipe.read_end.Reset();
  EXPECT_EQ(WriteFrame(pipe.write_end.get(), Done("x")).code(), Code::kUnavailable);
}

TEST(Framing, WaitingReaderIsWoken) {
  Pipe pipe;
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC));
  FrameReader reader(pipe.read_end.get(), wake.get());
  std::thread waker([&] {
    const uint64_t one = 1;
    ASSERT_EQ(::write(wake.get(), &one, sizeof one), 8);
  });
  std::string body;
  const Result<bool> more = reader.Next(&body);
  ASSERT_TRUE(more.ok());
  EXPECT_FALSE(*more);
  waker.join();
}

}  // namespace
}  // namespace heddle::client
