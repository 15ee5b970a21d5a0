#include "upcall/channel.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/plain_text.h"
#include "upcall/preamble.h"

namespace wyvern::upcall {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kBootIdLength = 36;
constexpr size_t kMaxVersion = 64;
constexpr int kTries = 2;  // streams for one call

// At least 1: 0 stands for something else, in ttrpc and in the requests.
milliseconds Left(Deadline deadline) {
  return std::max(std::chrono::ceil<milliseconds>(deadline - steady_clock::now()), milliseconds(1));
}

bool IsPrintable(const std::string& text) {
  return std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7f; });
}

}  // namespace

Channel::Channel(ChannelOptions options) : options_(std::move(options)) {}

Channel::~Channel() {
  Close();
}

const char* Channel::NameOf(Method method) {
  switch (method) {
    case Method::kPciRescan:
      return "PciRescan";
    case Method::kPciRemove:
      return "PciRemove";
  }
  return "?";
}

Result<agent::v1::PciRescanResponse> Channel::PciRescan(agent::v1::PciRescanRequest request,
                                                        Deadline deadline) {
  return Call<agent::v1::PciRescanResponse>(Method::kPciRescan, std::move(request), deadline);
}

Result<> Channel::PciRemove(agent::v1::PciRemoveRequest request, Deadline deadline) {
  WV_TRY_VOID(Call<agent::v1::PciRemoveResponse>(Method::kPciRemove, std::move(request), deadline));
  return {};
}

template <typename Resp, typename Req>
Result<Resp> Channel::Call(Method method, Req request, Deadline deadline) {
  const auto start = steady_clock::now();
  std::optional<Result<Resp>> result;
  bool again = false;
  for (int i = 0; i < kTries && (i == 0 || again); ++i) {
    result.emplace(CallOnce<Resp>(method, request, deadline, &again));
  }
  Record(method, steady_clock::now() - start, !result->has_value());
  if (!*result) {
    return tl::unexpected(
        std::move(*result).error().WithContext(std::string("asking the guest: ") + NameOf(method)));
  }
  return *std::move(result);
}

// `again`: the stream ended, and there is time for another.
template <typename Resp, typename Req>
Result<Resp> Channel::CallOnce(Method method, Req& request, Deadline deadline, bool* again) {
  *again = false;
  WV_TRY(const ClientPtr client, Session(deadline));
  request.set_deadline_ms(static_cast<uint32_t>(Left(deadline).count()));
  auto answer = Ask<Resp>(*client, NameOf(method), request, deadline);
  *again = !answer && client->closed() && steady_clock::now() < deadline;
  return answer;
}

template <typename Resp, typename Req>
Result<Resp> Channel::Ask(ttrpc::Client& client, const char* method, const Req& request,
                          Deadline deadline) {
  auto answer =
      client.Call<Req, Resp>(kServiceName, method, request, {.timeout = Left(deadline) + kGrace});
  if (answer) {
    return answer;
  }
  if (steady_clock::now() >= deadline + kGrace) {
    client.Close();  // an agent that is well says at least that it was not in time
  }
  return Fail(answer.error().code(), PlainText(answer.error().message(), kMaxGuestError));
}

Result<Channel::ClientPtr> Channel::Session(Deadline deadline) {
  const std::unique_lock connecting(connect_mu_, deadline);
  if (!connecting) {
    return Fail(Code::kDeadlineExceeded, "the guest's agent did not answer to another call either");
  }
  ClientPtr old;  // destroyed without the lock: it joins its thread
  {
    const std::lock_guard lock(mu_);
    if (closed_) {
      return Fail(Code::kUnavailable, "the machine ends");
    }
    if (client_ && !client_->closed()) {
      return client_;
    }
    old = std::exchange(client_, nullptr);
  }
  old.reset();
  return Connect(deadline);
}

Result<Channel::ClientPtr> Channel::Connect(Deadline deadline) {
  WV_TRY_CONTEXT(UniqueFd stream, options_.connect(deadline), "connecting to the guest's agent");
  WV_TRY(std::unique_ptr<ttrpc::Client> made,
         ttrpc::Client::Create(std::move(stream), {.name = "upcall",
                                                   .max_unsent_bytes = 1U << 20U,
                                                   .on_thread_start = options_.on_thread_start}));
  const ClientPtr client = std::move(made);
  {
    // Where Close finds it, while it is greeted.
    const std::lock_guard lock(mu_);
    if (closed_) {
      return Fail(Code::kUnavailable, "the machine ends");
    }
    client_ = client;
    ++connections_;
  }
  if (auto greeted = Greet(*client, deadline); !greeted) {
    client->Close();
    return tl::unexpected(std::move(greeted).error());
  }
  return client;
}

Result<> Channel::Greet(ttrpc::Client& client, Deadline deadline) {
  agent::v1::UpcallHelloRequest request;
  request.set_protocol(kProtocol);
  WV_TRY_CONTEXT(const auto hello,
                 Ask<agent::v1::UpcallHelloResponse>(client, "Hello", request, deadline),
                 "the guest's agent does not greet");
  if (hello.protocol() != kProtocol || hello.boot_id().size() != kBootIdLength ||
      hello.agent_version().size() > kMaxVersion || !IsPrintable(hello.boot_id()) ||
      !IsPrintable(hello.agent_version())) {
    return Fail(Code::kDataLoss, "the guest's agent answers a greeting with what is none");
  }
  WV_INFO("the guest's agent {} takes changes of the machine", hello.agent_version());
  return {};
}

void Channel::Close() {
  ClientPtr client;
  {
    const std::lock_guard lock(mu_);
    closed_ = true;
    client = client_;
  }
  if (client) {
    client->Close();
  }
}

void Channel::Record(Method method, steady_clock::duration took, bool failed) {
  const auto microseconds =
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
  const std::lock_guard lock(mu_);
  Count& count = counts_.at(static_cast<size_t>(method));
  ++count.calls;
  count.failures += failed ? 1 : 0;
  count.microseconds += microseconds;
  count.longest = std::max(count.longest, microseconds);
}

std::vector<ChannelCounter> Channel::counters() const {
  const std::lock_guard lock(mu_);
  std::vector<ChannelCounter> out{{"connections", connections_}};
  for (size_t i = 0; i < kMethods; ++i) {
    const std::string name = NameOf(static_cast<Method>(i));
    const Count& count = counts_.at(i);
    out.push_back({name + ".calls", count.calls});
    out.push_back({name + ".failures", count.failures});
    out.push_back({name + ".us", count.microseconds});
    out.push_back({name + ".longest_us", count.longest});
  }
  return out;
}

}  // namespace wyvern::upcall
