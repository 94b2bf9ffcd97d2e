// idle_crowd PORT COUNT: opens COUNT connections to 127.0.0.1:PORT and says nothing on them, half of them from
// addresses of their own (a hundred each, out of 127.0.0.0/8), half from one. Writes "N\n" when it has tried them all,
// N being how many are open still; ends, and closes them, at the end of its input. A program of its own, for its
// descriptors.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

int Connect(in_addr_t from, uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(from);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  }
  ::close(fd);
  return -1;
}

// The other side has neither ended nor reset it.
bool IsOpen(int fd) {
  char byte = 0;
  const ssize_t n = ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n < 0 && errno == EAGAIN;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto port = static_cast<uint16_t>(std::atoi(argv[1]));
  const int count = std::atoi(argv[2]);
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  std::vector<int> all;
  for (int i = 0; i < count; ++i) {
    const in_addr_t own = 0x7F010001U + static_cast<in_addr_t>(i / 200), shared = 0x7F020001U;
    const int fd = Connect(i % 2 == 0 ? own : shared, port);
    if (fd >= 0) all.push_back(fd);
  }
  int open = 0;
  for (const int fd : all) open += IsOpen(fd) ? 1 : 0;
  std::printf("%d\n", open);
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  for (const int fd : all) ::close(fd);  // LeakSanitizer needs one at the end
  return 0;
}
