// WebSocket frames as a client sends them, byte for byte (RFC 6455, 5.2), for a RawPeer: also those that no library
// would send.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace heddle::protocol {

inline const std::string kUpgrade =
    "GET /v1/split HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

enum class Opcode : uint8_t { kContinuation = 0, kText = 1, kBinary = 2, kClose = 8, kPing = 9 };

// The head of a frame of `length` bytes. Its mask is zero, so what follows is the payload as it is.
inline std::string FrameHead(Opcode opcode, uint64_t length, bool last = true) {
  std::string head(1, static_cast<char>((last ? 0x80U : 0U) | static_cast<unsigned>(opcode)));
  const int bytes = length < 126 ? 0 : length < 65'536 ? 2 : 8;
  head += static_cast<char>(0x80U | (bytes == 0 ? length : bytes == 2 ? 126U : 127U));
  for (int i = bytes - 1; i >= 0; --i) head += static_cast<char>((length >> (8 * i)) & 0xffU);
  return head + std::string(4, '\0');
}

inline std::string Frame(Opcode opcode, std::string_view payload, bool last = true) {
  return FrameHead(opcode, payload.size(), last) + std::string(payload);
}

// Of the close frame that what a server has sent ends with; 0: it ends with none.
inline int CloseCodeOf(std::string_view sent) {
  if (sent.size() < 4) return 0;
  const auto byte = [&sent](size_t from_end) { return static_cast<unsigned char>(sent[sent.size() - from_end]); };
  return byte(4) == 0x88 && byte(3) == 2 ? byte(2) << 8 | byte(1) : 0;
}

}  // namespace heddle::protocol
