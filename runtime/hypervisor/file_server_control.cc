#include "hypervisor/file_server_control.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <string_view>

#include "base/unix_socket.h"

namespace wyvern::runtime {

Result<> FileServerControl::Command(const std::string& text) {
  const std::lock_guard lock(mu_);
  const std::string packet = fmt::format("{} {}", ++sent_, text);
  WV_TRY_VOID_CONTEXT(SendMessage(socket_, std::as_bytes(std::span(packet)), {}), "file server");
  WV_TRY_VOID_CONTEXT(AwaitAnswer(sent_), fmt::format("file server: '{}'", text));
  return {};
}

Result<> FileServerControl::AwaitAnswer(uint64_t number) {
  const auto deadline = std::chrono::steady_clock::now() + patience_;
  for (;;) {
    std::array<std::byte, 1024> buffer;
    WV_TRY(const ReceivedMessage received, ReceiveMessageUntil(socket_, buffer, 0, deadline));
    if (received.size == 0) {
      return Fail(Code::kUnavailable, "the file server is gone");
    }
    const std::string_view answer(reinterpret_cast<const char*>(buffer.data()), received.size);
    uint64_t answered = 0;
    const auto [end, error] =
        std::from_chars(answer.data(), answer.data() + answer.size(), answered);
    if (error == std::errc() && answered > 0 && answered < number) {
      continue;  // it comes late
    }
    if (error != std::errc() || answered != number) {
      return Fail(Code::kInternal, "it answered what it was not asked");
    }
    const std::string_view said = answer.substr(static_cast<size_t>(end - answer.data()));
    if (said == " ok") {
      return {};
    }
    return Fail(Code::kInternal, std::string(said.substr(said.empty() ? 0 : 1)));
  }
}

}  // namespace wyvern::runtime
