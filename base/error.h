// base/error.h — what the environment did to us: a code, an errno, where, and a chain of contexts.
// Shape:   one pointer, so Result<int> is 16 bytes. Codes are those of google.rpc.Code: the ttrpc
//          and gRPC edges are a cast.
// Errors:  out of memory aborts. An error is logged once, where its propagation stops.
// Threads: a value; not shared.
#pragma once

#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <string_view>

#include <tl/expected.hpp>

namespace wyvern {

// google/rpc/code.proto
enum class Code : uint8_t {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// "NOT_FOUND" and so on; never null.
const char* CodeName(Code code);

class Error {
 public:
  Error(Code code, std::string message,
        std::source_location where = std::source_location::current());

  Code code() const;
  // 0 when no system call was involved.
  int sys_errno() const;
  // Contexts, outermost first, then the message, then the errno's text: "creating sandbox x: open
  // /dev/kvm: No such file or directory".
  std::string message() const;
  // message() and the place where the error was made; for logs.
  std::string DebugString() const;

  // Puts what we were doing in front: e.WithContext("mounting rootfs").
  Error&& WithContext(std::string context) &&;
  Error&& WithCode(Code code) &&;
  Error&& WithErrno(int number) &&;

 private:
  struct Rep;

  struct RepDeleter {
    void operator()(Rep* rep) const;
  };

  std::unique_ptr<Rep, RepDeleter> rep_;
};

template <typename T = void>
using Result = tl::expected<T, Error>;

// The errno of the system call that just failed, with the call's name (and object): return
// SysError("open /dev/kvm"). The code follows the errno (ENOENT → NOT_FOUND, EACCES/EPERM →
// PERMISSION_DENIED, …, else INTERNAL).
tl::unexpected<Error> SysError(std::string what,
                               std::source_location where = std::source_location::current());
// The same with the error number given.
tl::unexpected<Error> SysErrorFrom(int number, std::string what,
                                   std::source_location where = std::source_location::current());
tl::unexpected<Error> Fail(Code code, std::string message,
                           std::source_location where = std::source_location::current());
Code CodeFromErrno(int number);

}  // namespace wyvern

// NOLINTBEGIN(bugprone-macro-parentheses): a declaration cannot be put in parentheses.
#define WV_CONCAT_INNER(a, b) a##b
#define WV_CONCAT(a, b) WV_CONCAT_INNER(a, b)

// WV_TRY(auto fd, Open(path)): declares or assigns the value, or returns the error.
#define WV_TRY(lhs, expression) WV_TRY_IMPL(WV_CONCAT(wv_try_, __LINE__), lhs, expression)
#define WV_TRY_IMPL(result, lhs, expression)            \
  auto result = (expression);                           \
  if (!(result).has_value()) [[unlikely]] {             \
    return ::tl::unexpected(std::move(result).error()); \
  }                                                     \
  lhs = *std::move(result)

// WV_TRY_VOID(Close(fd)): returns the error, drops the value.
#define WV_TRY_VOID(expression)                                  \
  do {                                                           \
    auto wv_try_result = (expression);                           \
    if (!wv_try_result.has_value()) [[unlikely]] {               \
      return ::tl::unexpected(std::move(wv_try_result).error()); \
    }                                                            \
  } while (false)

// The same, with what we were doing put in front of the error's message.
#define WV_TRY_CONTEXT(lhs, expression, context) \
  WV_TRY_CONTEXT_IMPL(WV_CONCAT(wv_try_, __LINE__), lhs, expression, context)
#define WV_TRY_CONTEXT_IMPL(result, lhs, expression, context)                \
  auto result = (expression);                                                \
  if (!(result).has_value()) [[unlikely]] {                                  \
    return ::tl::unexpected(std::move(result).error().WithContext(context)); \
  }                                                                          \
  lhs = *std::move(result)
#define WV_TRY_VOID_CONTEXT(expression, context)                                      \
  do {                                                                                \
    auto wv_try_result = (expression);                                                \
    if (!wv_try_result.has_value()) [[unlikely]] {                                    \
      return ::tl::unexpected(std::move(wv_try_result).error().WithContext(context)); \
    }                                                                                 \
  } while (false)
// NOLINTEND(bugprone-macro-parentheses)
