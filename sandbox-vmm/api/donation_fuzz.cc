// The donation socket's two ends: packets of any shape are answered and no descriptor stays behind;
// what is donated as it should be is there, what is not is refused as documented, and a donor believes
// the answer to its own request only.
// Input:   1 B what follows: even 1 B descriptors and the bytes of one packet, which is then the answer
//          to a donation, too; odd a script of operations, 1 B each:
//          donate (1 B number, 1 B kind, 1 B descriptors, 1 B how long the name is, 1 B which), take
//          (1 B kind, 1 B how long, 1 B which), fill the store; answer (1 B number, 1 B code, 2 B text,
//          1 B that it is cut), ask.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "api/donation.h"
#include "base/check.h"
#include "base/endian.h"
#include "base/testing/fuzz_input.h"
#include "base/unix_socket.h"

namespace wyvern::api {
namespace {

constexpr size_t kHeader = 8;
constexpr size_t kMaxOperations = 64;

FdRef Null() {
  static const UniqueFd null = *Open("/dev/null", O_RDONLY);
  return null;
}

std::string Wire(uint32_t first, uint32_t second, std::string_view text) {
  const std::array<Le32, 2> header = {first, second};
  return std::string(reinterpret_cast<const char*>(header.data()), sizeof(header)) +
         std::string(text);
}

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// Some lengths around the limits, and few different names, so that one meets another again.
std::string Name(FuzzInput& input) {
  constexpr std::array<size_t, 8> kSizes = {1, 2, 5, 63, 64, 65, 0, 4000};
  constexpr std::string_view kLetters = "abz09:_-A/. \x7f\xff";
  const uint8_t size = input.Byte();
  const uint8_t which = input.Byte();
  // Mostly of letters that may be in it.
  const size_t letters = which < 0xe0 ? 8 : kLetters.size() + 1;  // with the zero behind them
  return std::string(kSizes[size % kSizes.size()], kLetters.data()[which % letters]);
}

bool MayBeAName(const std::string& name) {
  return !name.empty() && name.size() <= 63 &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789:_-") == std::string::npos;
}

// --- The receiving end, beside what it should hold ---

class Receiver {
 public:
  void Donate(FuzzInput& input) {
    constexpr std::array<size_t, 8> kCounts = {1, 1, 1, 1, 1, 0, 2, 253};
    const uint32_t number = input.Byte();
    const uint8_t kind_byte = input.Byte();
    const uint32_t kind = kind_byte < 0xf0 ? kind_byte % 10U : ~uint32_t{kind_byte};
    const size_t fds = kCounts[input.Byte() % kCounts.size()];
    const std::string name = Name(input);
    const Code code = Send(Wire(number, kind, name), fds, number);
    WV_CHECK(code == Expected(kind, fds, name));
    if (code == Code::kOk) {
      held_.emplace(name, kind);
    }
  }

  void Take(FuzzInput& input) {
    const uint32_t kind = 1 + input.Byte() % 8U;
    const std::string name = Name(input);
    const auto fd = store_.Take(DonationKind{kind}, name);
    const auto held = held_.find(name);
    if (held == held_.end()) {
      WV_CHECK(!fd && fd.error().code() == Code::kNotFound);
    } else if (held->second != kind) {
      WV_CHECK(!fd && fd.error().code() == Code::kInvalidArgument);
    } else {
      WV_CHECK(fd.has_value() && fd->valid());
      held_.erase(held);
    }
  }

  // Up to the limit, or one less.
  void Fill(FuzzInput& input) {
    const size_t wanted = kMaxPendingDonations - (input.Byte() & 1U);
    for (size_t i = 0; held_.size() < wanted; ++i) {
      const std::string name = "fill" + std::to_string(i);
      if (!held_.contains(name)) {
        WV_CHECK(store_.Add(DonationKind::kStream, name, UniqueFd()).has_value());
        held_.emplace(name, static_cast<uint32_t>(DonationKind::kStream));
      }
    }
  }

 private:
  Code Expected(uint32_t kind, size_t fds, const std::string& name) const {
    if (fds != 1 || kind < 1 || kind > 9 || !MayBeAName(name)) {
      return Code::kInvalidArgument;
    }
    if (held_.size() >= kMaxPendingDonations) {
      return Code::kResourceExhausted;
    }
    return held_.contains(name) ? Code::kAlreadyExists : Code::kOk;
  }

  Code Send(const std::string& packet, size_t fds, uint32_t number) {
    WV_CHECK(SendMessage(pair_.first, Bytes(packet), std::vector<FdRef>(fds, Null())).has_value());
    WV_CHECK(*ServeOneDonation(pair_.second, store_));
    std::array<std::byte, kHeader + kMaxDonationText> answer{};
    const ReceivedMessage got = *ReceiveMessage(pair_.first, answer, 0);
    WV_CHECK(got.size >= kHeader && !got.truncated);
    std::array<Le32, 2> header;
    std::memcpy(header.data(), answer.data(), sizeof(header));
    WV_CHECK(header[0] == number && (header[1] == 0U) == (got.size == kHeader));
    return Code{static_cast<uint8_t>(header[1])};
  }

  const SocketPair pair_ = *MakeSocketPair(SOCK_SEQPACKET);
  DonationStore store_;
  std::map<std::string, uint32_t> held_;  // what should be in it: kinds by name
};

// --- The donor, against a receiver that answers what it likes ---

class Donor {
 public:
  Donor() : Donor(*MakeSocketPair(SOCK_SEQPACKET)) {}

  void Answer(FuzzInput& input) {
    Reply reply;
    reply.number = input.Byte() % 8U;
    reply.code = input.Byte();
    const size_t text = input.Word() % (kMaxDonationText + 8);
    std::string packet = Wire(reply.number, reply.code, std::string(text, 't'));
    if (const uint8_t cut = input.Byte(); cut >= 0xf0) {
      packet.resize(1 + cut % 7U);  // an empty one is the end
      reply.cut = true;
    }
    WV_CHECK(SendMessage(other_, Bytes(packet), {}).has_value());
    replies_.push_back(reply);
  }

  // One donation. Nothing that was answered so far is decisive: then what is answered to this one is.
  void Ask() {
    ++asked_;
    std::optional<Code> expected = Decide();
    if (!expected) {
      const std::string fine = Wire(asked_, 0, "");
      WV_CHECK(SendMessage(other_, Bytes(fine), {}).has_value());
      expected = Code::kOk;
    }
    const auto done = client_.Donate(DonationKind::kImage, "image", Null());
    WV_CHECK((done ? Code::kOk : done.error().code()) == *expected);
    DropRequest();
  }

  // Without an answer, the receiver is gone.
  void End() {
    ++asked_;
    const std::optional<Code> expected = Decide();
    shutdown(other_.get(), SHUT_WR);
    const auto done = client_.Donate(DonationKind::kImage, "image", Null());
    WV_CHECK((done ? Code::kOk : done.error().code()) == expected.value_or(Code::kUnavailable));
    WV_CHECK(!client_.Donate(DonationKind::kImage, "Not a name", Null()));
  }

 private:
  struct Reply {
    uint32_t number = 0;
    uint32_t code = 0;
    bool cut = false;
  };

  explicit Donor(SocketPair pair)
      : other_(std::move(pair.second)), client_(std::move(pair.first)) {}

  // What the answers that wait make of the next donation; they are taken then.
  std::optional<Code> Decide() {
    while (!replies_.empty()) {
      const Reply reply = replies_.front();
      replies_.pop_front();
      if (reply.cut) {
        return Code::kUnavailable;
      }
      if (reply.number > asked_) {
        return Code::kInternal;
      }
      if (reply.number == asked_) {
        return Code{static_cast<uint8_t>(std::min<uint32_t>(reply.code, 16))};
      }
    }
    return std::nullopt;
  }

  void DropRequest() {
    std::array<std::byte, 128> request{};
    const ReceivedMessage got = *ReceiveMessage(other_, request, 1);
    WV_CHECK(got.fds.size() == 1 && got.size == kHeader + 5);
  }

  const UniqueFd other_;
  DonationClient client_;
  uint32_t asked_ = 0;
  std::deque<Reply> replies_;
};

void FuzzScript(FuzzInput& input) {
  Receiver receiver;
  Donor donor;
  for (size_t i = 0; i < kMaxOperations && !input.empty(); ++i) {
    switch (input.Byte() % 8) {
      default:
        receiver.Donate(input);
        break;
      case 3:
        receiver.Take(input);
        break;
      case 4:
        receiver.Fill(input);
        break;
      case 5:
      case 6:
        donor.Answer(input);
        break;
      case 7:
        donor.Ask();
        break;
    }
  }
  donor.End();
}

void FuzzPacket(uint8_t fd_byte, std::span<const std::byte> packet) {
  const SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  const std::vector<FdRef> fds(fd_byte % 4U, Null());
  DonationStore store;
  if (packet.empty() || !SendMessage(pair.first, packet, fds)) {
    return;  // or larger than the socket takes
  }
  WV_CHECK(*ServeOneDonation(pair.second, store));
  std::array<std::byte, kHeader + kMaxDonationText> answer{};
  WV_CHECK(ReceiveMessage(pair.first, answer, 0)->size >= kHeader);

  SocketPair donor = *MakeSocketPair(SOCK_SEQPACKET);
  WV_CHECK(SendMessage(donor.second, packet, {}).has_value());
  shutdown(donor.second.get(), SHUT_WR);  // it would wait for more after an answer that seems late
  DonationClient client(std::move(donor.first));
  (void)client.Donate(DonationKind::kImage, "image", Null());
}

// The lowest number that a descriptor can get: higher when one has stayed open.
int NextDescriptor() {
  return UniqueFd(fcntl(Null().get(), F_DUPFD_CLOEXEC, 0)).get();
}

}  // namespace
}  // namespace wyvern::api

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;  // NOLINT(google-build-using-namespace): the whole file is one function
  if (size == 0) {
    return 0;
  }
  const int next = api::NextDescriptor();
  FuzzInput input(data + 1, size - 1);
  if ((data[0] & 1U) != 0) {
    api::FuzzScript(input);
  } else {
    const uint8_t fds = input.Byte();
    api::FuzzPacket(fds, std::as_bytes(input.Take(size)));
  }
  WV_CHECK(api::NextDescriptor() == next);
  return 0;
}
