#include "api/donation.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/endian.h"
#include "base/unix_socket.h"

namespace wyvern::api {

namespace {

constexpr int kAcknowledgeTimeoutMs = 5000;

bool IsKnownKind(uint32_t kind) {
  return kind >= static_cast<uint32_t>(DonationKind::kKvm) &&
         kind <= static_cast<uint32_t>(DonationKind::kConsoleRing);
}

Result<> AddReceived(std::span<const std::byte> packet, ReceivedMessage& message,
                     DonationStore& store) {
  if (message.truncated || packet.size() <= sizeof(Le32) || message.fds.size() != 1) {
    return Fail(Code::kInvalidArgument, "a donation is a kind, a name and exactly one descriptor");
  }
  Le32 kind;
  std::memcpy(&kind, packet.data(), sizeof(kind));
  if (!IsKnownKind(kind)) {
    return Fail(Code::kInvalidArgument, "unknown kind of donation " + std::to_string(kind));
  }
  std::string name(reinterpret_cast<const char*>(packet.data()) + sizeof(kind),
                   packet.size() - sizeof(kind));
  if (!IsValidDonationName(name)) {
    return Fail(Code::kInvalidArgument, "a donation's name is 1 to 63 bytes of [a-z0-9:_-]");
  }
  return store.Add(DonationKind{kind.value()}, std::move(name), std::move(message.fds[0]));
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
  const Le32 wire_kind = static_cast<uint32_t>(kind);
  std::vector<std::byte> packet(sizeof(wire_kind) + name.size());
  std::memcpy(packet.data(), &wire_kind, sizeof(wire_kind));
  std::memcpy(packet.data() + sizeof(wire_kind), name.data(), name.size());
  WV_TRY_VOID_CONTEXT(SendMessage(socket_, packet, std::span(&fd, 1)), "donate " + name);
  pollfd polled{.fd = socket_.get(), .events = POLLIN, .revents = 0};
  if (poll(&polled, 1, kAcknowledgeTimeoutMs) != 1) {
    return Fail(Code::kDeadlineExceeded, "wyvern-vmm did not take the descriptor " + name);
  }
  std::array<std::byte, sizeof(Le32) + kMaxDonationText> answer{};
  WV_TRY_CONTEXT(const ReceivedMessage received, ReceiveMessage(socket_, answer, 0),
                 "donate " + name);
  if (received.size < sizeof(Le32)) {
    return Fail(Code::kUnavailable, "wyvern-vmm has ended");
  }
  Le32 code;
  std::memcpy(&code, answer.data(), sizeof(code));
  if (code != 0) {
    const std::string text(reinterpret_cast<const char*>(answer.data()) + sizeof(code),
                           received.size - sizeof(code));
    return Fail(Code{static_cast<uint8_t>(std::min<uint32_t>(code, 16))},
                "donate " + name + ": " + text);
  }
  return {};
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
  std::array<std::byte, sizeof(Le32) + kMaxDonationName + 1> packet{};
  WV_TRY(ReceivedMessage message, ReceiveMessage(socket, packet, 1));
  if (message.size == 0 && message.fds.empty()) {
    return false;
  }
  const auto added = AddReceived(std::span(packet).first(message.size), message, store);
  const Le32 code = added ? 0U : static_cast<uint32_t>(added.error().code());
  std::string text = added ? "" : added.error().message();
  text.resize(std::min(text.size(), kMaxDonationText));
  std::vector<std::byte> answer(sizeof(code) + text.size());
  std::memcpy(answer.data(), &code, sizeof(code));
  std::memcpy(answer.data() + sizeof(code), text.data(), text.size());
  WV_TRY_VOID(SendMessage(socket, answer, {}));
  return true;
}

}  // namespace wyvern::api
