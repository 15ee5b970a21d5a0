#include "api/donation.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/endian.h"
#include "base/unix_socket.h"

namespace wyvern::api {

namespace {

struct RequestHeader {
  Le32 number;
  Le32 kind;
};

struct AnswerHeader {
  Le32 number;
  Le32 code;
};

bool IsKnownKind(uint32_t kind) {
  return kind >= static_cast<uint32_t>(DonationKind::kKvm) &&
         kind <= static_cast<uint32_t>(DonationKind::kTap);
}

Result<> AddReceived(std::span<const std::byte> packet, ReceivedMessage& message,
                     DonationStore& store) {
  if (message.truncated || packet.size() <= sizeof(RequestHeader) || message.fds.size() != 1) {
    return Fail(Code::kInvalidArgument,
                "a donation is a number, a kind, a name and exactly one descriptor");
  }
  RequestHeader header;
  std::memcpy(&header, packet.data(), sizeof(header));
  if (!IsKnownKind(header.kind)) {
    return Fail(Code::kInvalidArgument, "unknown kind of donation " + std::to_string(header.kind));
  }
  std::string name(reinterpret_cast<const char*>(packet.data()) + sizeof(header),
                   packet.size() - sizeof(header));
  if (!IsValidDonationName(name)) {
    return Fail(Code::kInvalidArgument, "a donation's name is 1 to 63 bytes of [a-z0-9:_-]");
  }
  return store.Add(DonationKind{header.kind.value()}, std::move(name), std::move(message.fds[0]));
}

}  // namespace

bool IsValidDonationName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxDonationName &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == ':' || c == '_' ||
                  c == '-';
         });
}

Result<> DonationClient::Donate(DonationKind kind, const std::string& name, FdRef fd) {
  if (!IsValidDonationName(name)) {
    return Fail(Code::kInvalidArgument, "not a donation's name: " + name);
  }
  const std::lock_guard lock(mu_);
  const RequestHeader header{++sent_, static_cast<uint32_t>(kind)};
  std::vector<std::byte> packet(sizeof(header) + name.size());
  std::memcpy(packet.data(), &header, sizeof(header));
  std::memcpy(packet.data() + sizeof(header), name.data(), name.size());
  WV_TRY_VOID_CONTEXT(SendMessage(socket_, packet, std::span(&fd, 1)), "donate " + name);
  WV_TRY_VOID_CONTEXT(AwaitAnswer(header.number), "donate " + name);
  return {};
}

Result<> DonationClient::AwaitAnswer(uint32_t number) {
  const auto deadline = std::chrono::steady_clock::now() + patience_;
  for (;;) {
    std::array<std::byte, sizeof(AnswerHeader) + kMaxDonationText> packet{};
    WV_TRY(const ReceivedMessage received, ReceiveMessageUntil(socket_, packet, 0, deadline));
    if (received.size < sizeof(AnswerHeader)) {
      return Fail(Code::kUnavailable, "wyvern-vmm has ended");
    }
    AnswerHeader header;
    std::memcpy(&header, packet.data(), sizeof(header));
    if (header.number < number) {
      continue;  // it comes late
    }
    if (header.number > number) {
      return Fail(Code::kInternal, "wyvern-vmm answered what it was not asked");
    }
    if (header.code == 0) {
      return {};
    }
    return Fail(Code{static_cast<uint8_t>(std::min<uint32_t>(header.code, 16))},
                std::string(reinterpret_cast<const char*>(packet.data()) + sizeof(header),
                            received.size - sizeof(header)));
  }
}

Result<> DonationStore::Add(DonationKind kind, std::string name, UniqueFd fd) {
  const std::lock_guard lock(mu_);
  if (entries_.size() >= kMaxPendingDonations) {
    return Fail(Code::kResourceExhausted, "too many descriptors wait to be taken");
  }
  if (entries_.contains(name)) {
    return Fail(Code::kAlreadyExists, "a descriptor " + name + " is already here");
  }
  entries_.emplace(std::move(name), Entry{kind, std::move(fd)});
  return {};
}

Result<UniqueFd> DonationStore::Take(DonationKind kind, const std::string& name) {
  const std::lock_guard lock(mu_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    return Fail(Code::kNotFound, "no descriptor was donated as \"" + name + "\"");
  }
  if (found->second.kind != kind) {
    return Fail(Code::kInvalidArgument, "the descriptor " + name + " was donated as another kind");
  }
  UniqueFd fd = std::move(found->second.fd);
  entries_.erase(found);
  return fd;
}

Result<bool> ServeOneDonation(FdRef socket, DonationStore& store) {
  std::array<std::byte, sizeof(RequestHeader) + kMaxDonationName + 1> packet{};
  WV_TRY(ReceivedMessage message, ReceiveMessage(socket, packet, 1));
  if (message.size == 0 && message.fds.empty()) {
    return false;
  }
  const auto added = AddReceived(std::span(packet).first(message.size), message, store);
  Le32 number = 0;
  if (message.size >= sizeof(number)) {
    std::memcpy(&number, packet.data(), sizeof(number));
  }
  const AnswerHeader header{number, added ? 0U : static_cast<uint32_t>(added.error().code())};
  std::string text = added ? "" : added.error().message();
  text.resize(std::min(text.size(), kMaxDonationText));
  std::vector<std::byte> answer(sizeof(header) + text.size());
  std::memcpy(answer.data(), &header, sizeof(header));
  std::memcpy(answer.data() + sizeof(header), text.data(), text.size());
  WV_TRY_VOID(SendMessage(socket, answer, {}));
  return true;
}

}  // namespace wyvern::api
