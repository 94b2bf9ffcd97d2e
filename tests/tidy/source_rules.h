// The rules of the source tree that a compiler does not check: who may include whom, what has to be said, how long a
// file may be. Each rule is a function from a tree to the sentences about what breaks it, so that a test can hand it a
// planted mistake.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace heddle::tidy {

// Path relative to the root, with '/', to content.
using Tree = std::map<std::string, std::string>;
// "path:line: sentence", one a violation.
using Violations = std::vector<std::string>;

// The rooms, lowest level first, without tests.
const std::vector<std::string>& Rooms();

// The sources, headers, protos, CMake and Markdown files of all rooms, tests and docs.
Tree ReadTree(const std::filesystem::path& root);

// A room includes itself and rooms of lower levels; what is included by name is there.
Violations CheckLevels(const Tree& tree);
// Libraries with a wall around them are named only inside it: LibTorch, Protobuf, sockets, OpenSSL, SQLite and so on.
Violations CheckWalls(const Tree& tree);
// No translation unit sees LibTorch and Protobuf both; targets without TORCH, and their headers, see no LibTorch.
Violations CheckTorch(const Tree& tree);
// Every program that links LibTorch, itself or through a library, says at its start when the BLAS is a slow one.
Violations CheckBlasAtStart(const Tree& tree);
// Every message, enum, field and value of a .proto has a comment above it or behind it.
Violations CheckProtoComments(const Tree& tree);
// Every header starts with a comment about its purpose and has #pragma once.
Violations CheckHeaderComments(const Tree& tree);
// No file of more than 500 lines but those in `reasons` ("path: reason" lines), and none there that is shorter.
Violations CheckLength(const Tree& tree, const std::string& reasons);
// Every room has a README.md of at most 60 lines.
Violations CheckReadmes(const Tree& tree);
// No marker of unfinished work.
Violations CheckMarkers(const Tree& tree);
// In the rooms that coordinator and daemon are made of, every fsync, rename, transaction's commit and sent answer has a
// failpoint within the three lines before it and the three after it: the tests of kills walk the failpoints. And each
// failpoint of common/test_hooks.h stands in the code.
Violations CheckFailpoints(const Tree& tree);

}  // namespace heddle::tidy
