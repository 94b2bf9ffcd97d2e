// Status and Result<T>: how Heddle reports what the world does.
//
// Policy: a Status (or Result) for everything that network, disk, configuration or a peer can cause; HEDDLE_ASSERT
// (assert.h) for bugs of our own; exceptions only inside the wall around a library that throws them.
// A message is one clear sentence: what is wrong, where, and what to do. It ends without a full stop, so that context
// can be added in front with Annotate().
//
// Thread-safety: values; as safe as std::string.
#pragma once

#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "common/assert.h"

namespace heddle {

// The canonical codes of the field, with the meanings that gRPC and HTTP users know.
// The values are stored in databases and sent over the wire: never renumber.
enum class Code : int {
  kOk = 0,
  kCancelled = 1,         // stopped on request
  kUnknown = 2,           // a newer peer's code that this version does not know
  kInvalidArgument = 3,   // wrong whatever the state of the system: fix the input
  kDeadlineExceeded = 4,  // did not finish in time
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,    // the caller is known and may not
  kResourceExhausted = 8,   // a limit, a full disk, no memory: later or less
  kFailedPrecondition = 9,  // wrong in the present state
  kAborted = 10,            // lost a race; starting over may help
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,         // an invariant of a library or of ours broke, without danger to the process
  kUnavailable = 14,      // try again later
  kDataLoss = 15,         // stored or sent bytes are not what they were
  kUnauthenticated = 16,  // no valid certificate or token
};

// "INVALID_ARGUMENT" and so on; "UNKNOWN" for values out of range.
std::string_view CodeName(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

  // "INVALID_ARGUMENT: sentence", or "OK".
  std::string ToString() const;

  // The same status with "context: " in front of its message; ok stays ok.
  Status Annotate(std::string_view context) const;

  friend bool operator==(const Status&, const Status&) = default;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

std::ostream& operator<<(std::ostream& out, const Status& status);

inline Status OkStatus() { return {}; }
inline Status InvalidArgument(std::string m) { return {Code::kInvalidArgument, std::move(m)}; }
inline Status NotFound(std::string m) { return {Code::kNotFound, std::move(m)}; }
inline Status AlreadyExists(std::string m) { return {Code::kAlreadyExists, std::move(m)}; }
inline Status PermissionDenied(std::string m) { return {Code::kPermissionDenied, std::move(m)}; }
inline Status ResourceExhausted(std::string m) { return {Code::kResourceExhausted, std::move(m)}; }
inline Status FailedPrecondition(std::string m) { return {Code::kFailedPrecondition, std::move(m)}; }
inline Status Aborted(std::string m) { return {Code::kAborted, std::move(m)}; }
inline Status OutOfRange(std::string m) { return {Code::kOutOfRange, std::move(m)}; }
inline Status Unimplemented(std::string m) { return {Code::kUnimplemented, std::move(m)}; }
inline Status Internal(std::string m) { return {Code::kInternal, std::move(m)}; }
inline Status Unavailable(std::string m) { return {Code::kUnavailable, std::move(m)}; }
inline Status DataLoss(std::string m) { return {Code::kDataLoss, std::move(m)}; }
inline Status Unauthenticated(std::string m) { return {Code::kUnauthenticated, std::move(m)}; }
inline Status Cancelled(std::string m) { return {Code::kCancelled, std::move(m)}; }
inline Status DeadlineExceeded(std::string m) { return {Code::kDeadlineExceeded, std::move(m)}; }

// A value or the reason why there is none. Reading the value of a failed Result is a bug (asserted).
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : rep_(std::in_place_index<0>, std::move(value)) {}        // NOLINT(google-explicit-constructor)
  Result(Status status) : rep_(std::in_place_index<1>, std::move(status)) {  // NOLINT(google-explicit-constructor)
    HEDDLE_ASSERT(!std::get<1>(rep_).ok(), "a Result needs a value or an error");
  }

  bool ok() const { return rep_.index() == 0; }
  Status status() const { return ok() ? Status() : std::get<1>(rep_); }

  T& value() & { return Checked(), std::get<0>(rep_); }
  const T& value() const& { return Checked(), std::get<0>(rep_); }
  T&& value() && { return Checked(), std::get<0>(std::move(rep_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  void Checked() const { HEDDLE_ASSERT(ok(), "value() of a failed Result"); }
  std::variant<T, Status> rep_;
};

}  // namespace heddle

#define HEDDLE_CONCAT_INNER(a, b) a##b
#define HEDDLE_CONCAT(a, b) HEDDLE_CONCAT_INNER(a, b)

// Returns the status from the enclosing function unless it is ok.
#define HEDDLE_RETURN_IF_ERROR(expr)                                                        \
  do {                                                                                      \
    if (::heddle::Status heddle_status = (expr); !heddle_status.ok()) return heddle_status; \
  } while (false)

// HEDDLE_ASSIGN_OR_RETURN(auto x, F()): x = *F(), or returns F's status.
#define HEDDLE_ASSIGN_OR_RETURN(lhs, expr) \
  HEDDLE_ASSIGN_OR_RETURN_INNER(HEDDLE_CONCAT(heddle_result_, __LINE__), lhs, expr)
#define HEDDLE_ASSIGN_OR_RETURN_INNER(result, lhs, expr) \
  auto result = (expr);                                  \
  if (!result.ok()) return result.status();              \
  lhs = *std::move(result)
