#include "base/error.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace wyvern {

struct Error::Rep {
  Code code;
  int number = 0;
  std::string message;  // contexts included
  std::source_location where;
};

void Error::RepDeleter::operator()(Rep* rep) const {
  delete rep;
}

Error::Error(Code code, std::string message, std::source_location where)
    : rep_(new Rep{code, 0, std::move(message), where}) {}

Code Error::code() const {
  return rep_->code;
}

int Error::sys_errno() const {
  return rep_->number;
}

std::string Error::message() const {
  if (rep_->number == 0) {
    return rep_->message;
  }
  std::array<char, 128> buffer{};
  const char* text = strerror_r(rep_->number, buffer.data(), buffer.size());
  return rep_->message + ": " + text;
}

std::string Error::DebugString() const {
  return fmt::format("{}: {} ({}:{})", CodeName(rep_->code), message(), rep_->where.file_name(),
                     rep_->where.line());
}

Error&& Error::WithContext(std::string context) && {
  rep_->message = std::move(context) + ": " + rep_->message;
  return std::move(*this);
}

Error&& Error::WithCode(Code code) && {
  rep_->code = code;
  return std::move(*this);
}

Error&& Error::WithErrno(int number) && {
  rep_->number = number;
  return std::move(*this);
}

const char* CodeName(Code code) {
  static constexpr std::array<const char*, 17> kNames = {"OK",
                                                         "CANCELLED",
                                                         "UNKNOWN",
                                                         "INVALID_ARGUMENT",
                                                         "DEADLINE_EXCEEDED",
                                                         "NOT_FOUND",
                                                         "ALREADY_EXISTS",
                                                         "PERMISSION_DENIED",
                                                         "RESOURCE_EXHAUSTED",
                                                         "FAILED_PRECONDITION",
                                                         "ABORTED",
                                                         "OUT_OF_RANGE",
                                                         "UNIMPLEMENTED",
                                                         "INTERNAL",
                                                         "UNAVAILABLE",
                                                         "DATA_LOSS",
                                                         "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < kNames.size() ? kNames[index] : "UNKNOWN";
}

Code CodeFromErrno(int number) {
  switch (number) {
    case ENOENT:
    case ESRCH:
    case ENXIO:
    case ENODEV:
      return Code::kNotFound;
    case EEXIST:
    case EADDRINUSE:
      return Code::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return Code::kPermissionDenied;
    case EINVAL:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
      return Code::kInvalidArgument;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return Code::kResourceExhausted;
    case EBUSY:
    case ENOTEMPTY:
    case ETXTBSY:
      return Code::kFailedPrecondition;
    case ETIMEDOUT:
      return Code::kDeadlineExceeded;
    case ENOSYS:
    case EOPNOTSUPP:
      return Code::kUnimplemented;
    case EPIPE:
    case ECONNREFUSED:
    case ECONNRESET:
    case ENOTCONN:
    case EAGAIN:
      return Code::kUnavailable;
    default:
      return Code::kInternal;
  }
}

tl::unexpected<Error> SysErrorFrom(int number, std::string what, std::source_location where) {
  return tl::unexpected(Error(CodeFromErrno(number), std::move(what), where).WithErrno(number));
}

tl::unexpected<Error> SysError(std::string what, std::source_location where) {
  return SysErrorFrom(errno, std::move(what), where);
}

tl::unexpected<Error> Fail(Code code, std::string message, std::source_location where) {
  return tl::unexpected(Error(code, std::move(message), where));
}

}  // namespace wyvern
