#include "agent/rtnetlink.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "base/plain_text.h"

namespace wyvern::agent {
namespace {

// What the kernel puts into one datagram of a list, at most (NLMSG_GOODSIZE and netlink_dump() of net/netlink/af_netlink.c).
constexpr size_t kBuffer = 32768;
constexpr size_t kLongestText = 200;
constexpr int kAttempts = 5;
constexpr int kLargestErrno = 4095;  // MAX_ERRNO of linux/err.h
// The kernel answers within the call that sends. Only a list has parts that come later, and they wait for locks, not for devices.
constexpr timeval kAnswerLimit = {.tv_sec = 5, .tv_usec = 0};

// The kernel's own words, from the end of a NLMSG_ERROR or NLMSG_DONE.
std::string TextOf(NetlinkAttributes attributes) {
  return PlainText(attributes.Text(NLMSGERR_ATTR_MSG), kLongestText);
}

// `error`: negated, as the kernel has it; 0: none.
Result<> Refusal(int error, const std::string& text) {
  if (error == 0) {
    return {};
  }
  if (error > 0 || error < -kLargestErrno) {
    return Fail(Code::kInternal, "netlink: an error that is none");
  }
  return SysErrorFrom(-error, text.empty() ? "the guest's kernel refuses" : text);
}

// NLMSG_ERROR, which is also the acknowledgement: error 0.
Result<> ReadError(const NetlinkMessage& message) {
  const auto error = message.ReadHeader<nlmsgerr>();
  if (!error) {
    return Fail(Code::kInternal, "netlink: an error that is cut short");
  }
  // The request comes back behind it unless NLM_F_CAPPED says that its header is all.
  const bool capped = (message.flags & NLM_F_CAPPED) != 0;
  const size_t request =
      capped ? sizeof(nlmsghdr)
             : std::clamp<size_t>(error->msg.nlmsg_len, sizeof(nlmsghdr), message.payload.size());
  const size_t behind = sizeof(nlmsgerr) - sizeof(nlmsghdr) + NLMSG_ALIGN(request);
  const bool has_text = (message.flags & NLM_F_ACK_TLVS) != 0 && behind < message.payload.size();
  return Refusal(error->error,
                 has_text ? TextOf(NetlinkAttributes(message.payload.subspan(behind))) : "");
}

// NLMSG_DONE: the end of a list, or why it ends early.
Result<> ReadDone(const NetlinkMessage& message) {
  const auto error = message.ReadHeader<int>();
  if (!error || *error >= 0) {
    return {};
  }
  return Refusal(*error, TextOf(message.AttributesBehind<int>()));
}

}  // namespace

void NetlinkRequest::Append(std::span<const std::byte> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  bytes_.resize(NLMSG_ALIGN(bytes_.size()));
}

void NetlinkRequest::Add(uint16_t type, std::span<const std::byte> value) {
  const nlattr attribute{.nla_len = static_cast<uint16_t>(NLA_HDRLEN + value.size()),
                         .nla_type = type};
  Append(std::as_bytes(std::span(&attribute, 1)));
  Append(value);
}

void NetlinkRequest::AddText(uint16_t type, std::string_view text) {
  std::vector<std::byte> value(text.size() + 1);
  std::memcpy(value.data(), text.data(), text.size());
  Add(type, std::span<const std::byte>(value));
}

size_t NetlinkRequest::Begin(uint16_t type) {
  const size_t begun = bytes_.size();
  Add(type, std::span<const std::byte>());
  return begun;
}

void NetlinkRequest::End(size_t begun) {
  const auto length = static_cast<uint16_t>(bytes_.size() - begun);
  std::memcpy(&bytes_[begun + offsetof(nlattr, nla_len)], &length, sizeof(length));
}

std::span<const std::byte> NetlinkRequest::Finish(uint16_t more_flags, uint32_t sequence) {
  nlmsghdr message{};
  std::memcpy(&message, bytes_.data(), sizeof(message));
  message.nlmsg_len = static_cast<uint32_t>(bytes_.size());
  message.nlmsg_flags = static_cast<uint16_t>(message.nlmsg_flags | NLM_F_REQUEST | more_flags);
  message.nlmsg_seq = sequence;
  std::memcpy(bytes_.data(), &message, sizeof(message));
  return bytes_;
}

std::optional<std::span<const std::byte>> NetlinkAttributes::Find(uint16_t type) const {
  std::optional<std::span<const std::byte>> found;
  std::span<const std::byte> rest = bytes_;
  while (rest.size() >= sizeof(nlattr)) {
    nlattr attribute{};
    std::memcpy(&attribute, rest.data(), sizeof(attribute));
    if (attribute.nla_len < NLA_HDRLEN || attribute.nla_len > rest.size()) {
      break;
    }
    if ((attribute.nla_type & NLA_TYPE_MASK) == type) {
      found = rest.subspan(NLA_HDRLEN, attribute.nla_len - size_t{NLA_HDRLEN});
    }
    rest = rest.subspan(std::min(static_cast<size_t>(NLA_ALIGN(attribute.nla_len)), rest.size()));
  }
  return found;
}

std::optional<uint32_t> NetlinkAttributes::Number(uint16_t type) const {
  const auto value = Find(type);
  uint32_t number = 0;
  if (!value || value->size() < sizeof(number)) {
    return std::nullopt;
  }
  std::memcpy(&number, value->data(), sizeof(number));
  return number;
}

std::string_view NetlinkAttributes::Text(uint16_t type) const {
  const auto value = Find(type);
  if (!value) {
    return {};
  }
  const std::string_view text(reinterpret_cast<const char*>(value->data()), value->size());
  return text.substr(0, text.find('\0'));
}

Result<NetlinkProgress> ReadDatagram(std::span<const std::byte> datagram, uint32_t sequence,
                                     const NetlinkHandler& handle) {
  NetlinkProgress progress;
  while (!datagram.empty() && !progress.done) {
    nlmsghdr header{};
    if (datagram.size() < sizeof(header)) {
      return Fail(Code::kInternal, "netlink: a message that is cut short");
    }
    std::memcpy(&header, datagram.data(), sizeof(header));
    if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > datagram.size()) {
      return Fail(Code::kInternal, "netlink: a message that does not add up");
    }
    const NetlinkMessage message{
        header.nlmsg_type, header.nlmsg_flags,
        datagram.subspan(sizeof(header), header.nlmsg_len - sizeof(header))};
    datagram = datagram.subspan(std::min(size_t{NLMSG_ALIGN(header.nlmsg_len)}, datagram.size()));
    if (header.nlmsg_seq != sequence) {
      continue;
    }
    progress.interrupted = progress.interrupted || (message.flags & NLM_F_DUMP_INTR) != 0;
    if (message.type == NLMSG_ERROR) {
      WV_TRY_VOID(ReadError(message));
      progress.done = true;
    } else if (message.type == NLMSG_DONE) {
      WV_TRY_VOID(ReadDone(message));
      progress.done = true;
    } else if (message.type >= NLMSG_MIN_TYPE) {
      handle(message);
    }
  }
  return progress;
}

Result<RouteSocket> RouteSocket::Open() {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd.valid()) {
    return SysError("socket(NETLINK_ROUTE)");
  }
  const sockaddr_nl kernel{.nl_family = AF_NETLINK, .nl_pad = 0, .nl_pid = 0, .nl_groups = 0};
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&kernel), sizeof(kernel)) != 0) {
    return SysError("connect(NETLINK_ROUTE)");
  }
  if (setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerLimit, sizeof(kAnswerLimit)) != 0) {
    return SysError("setsockopt(SO_RCVTIMEO)");
  }
  // For the texts only, so that an error of theirs is none of ours.
  const int on = 1;
  (void)setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
  (void)setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
  return RouteSocket(std::move(fd));
}

Result<NetlinkProgress> RouteSocket::Exchange(NetlinkRequest& request, uint16_t flags,
                                              const NetlinkHandler& handle) {
  const auto message = request.Finish(flags, ++sequence_);
  ssize_t count = 0;
  do {
    count = send(fd_.get(), message.data(), message.size(), 0);
  } while (count < 0 && errno == EINTR);
  if (count < 0) {
    return SysError("sending to the kernel");
  }
  NetlinkProgress progress;
  buffer_.resize(kBuffer);
  while (!progress.done) {
    sockaddr_nl from{};
    iovec place{.iov_base = buffer_.data(), .iov_len = buffer_.size()};
    msghdr received{};
    received.msg_name = &from;
    received.msg_namelen = sizeof(from);
    received.msg_iov = &place;
    received.msg_iovlen = 1;
    count = recvmsg(fd_.get(), &received, 0);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return SysError("the kernel's answer");
    }
    if (from.nl_pid != 0) {
      continue;
    }
    if ((received.msg_flags & MSG_TRUNC) != 0) {
      return Fail(Code::kInternal, "netlink: an answer of more than 32 KiB");
    }
    WV_TRY(const NetlinkProgress more,
           ReadDatagram(std::span(buffer_).first(static_cast<size_t>(count)), sequence_, handle));
    progress.done = more.done;
    progress.interrupted = progress.interrupted || more.interrupted;
  }
  return progress;
}

Result<> RouteSocket::Change(NetlinkRequest request) {
  WV_TRY_VOID(Exchange(request, NLM_F_ACK, [](const NetlinkMessage&) {}));
  return {};
}

Result<> RouteSocket::List(NetlinkRequest request, const NetlinkHandler& handle) {
  // Whoever changes it all the time keeps no other up: what was read then is a little old, as it would be anyhow a moment later.
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    WV_TRY(const NetlinkProgress progress, Exchange(request, NLM_F_DUMP, handle));
    if (!progress.interrupted) {
      break;
    }
  }
  return {};
}

}  // namespace wyvern::agent
