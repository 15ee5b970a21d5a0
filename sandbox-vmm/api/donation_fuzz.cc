// Packets of any shape on the donation socket: answered, and no descriptor stays behind. The same bytes as the answer to a donation.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "api/donation.h"
#include "base/check.h"
#include "base/unix_socket.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  if (size < 2) {
    return 0;
  }
  const SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  const UniqueFd null = *Open("/dev/null", O_RDONLY);
  const std::vector<FdRef> fds(data[0] % 4U, FdRef(null));
  api::DonationStore store;
  if (!SendMessage(pair.first, std::as_bytes(std::span(data + 1, size - 1)), fds)) {
    return 0;  // larger than the socket takes
  }
  WV_CHECK(*api::ServeOneDonation(pair.second, store));
  std::array<std::byte, 8 + api::kMaxDonationText> answer{};
  WV_CHECK(ReceiveMessage(pair.first, answer, 0)->size >= 8);

  SocketPair donor = *MakeSocketPair(SOCK_SEQPACKET);
  WV_CHECK(SendMessage(donor.second, std::as_bytes(std::span(data + 1, size - 1)), {}).has_value());
  shutdown(donor.second.get(), SHUT_WR);  // it would wait for more after an answer that seems late
  api::DonationClient client(std::move(donor.first));
  (void)client.Donate(api::DonationKind::kImage, "image", null);
  return 0;
}
