#include "upcall/session.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include <fmt/format.h>

#include "base/log.h"
#include "base/plain_text.h"
#include "upcall/answers.h"
#include "upcall/preamble.h"

namespace wyvern::upcall {

namespace {

using std::chrono::milliseconds;

// Between tries to reach an agent that refuses: it may not have begun to listen.
constexpr milliseconds kFirstPause(2);
constexpr milliseconds kLongestPause(100);
// An agent on a stream that is in doubt has so long to say Hello.
constexpr milliseconds kHelloPatience(1000);
// Of a call's time, what is left for the way of the answer.
constexpr milliseconds kLongestWay(200);
constexpr milliseconds kLongestDeadline(600'000);

milliseconds Left(Time deadline) {
  return std::clamp(std::chrono::ceil<milliseconds>(deadline - Clock::now()), milliseconds(0),
                    kLongestDeadline);
}

// What the agent is told: it answers at its deadline what it knows, which is more than our silence.
uint32_t AgentsShare(milliseconds left) {
  const milliseconds share = left - std::min(left / 4, kLongestWay);
  return static_cast<uint32_t>(std::max<int64_t>(share.count(), 1));
}

tl::unexpected<Error> Late() {
  return Fail(Code::kDeadlineExceeded, "the guest's agent did not answer in time");
}

tl::unexpected<Error> Closed() {
  return Fail(Code::kUnavailable, "the machine is being shut down");
}

std::string LowerName(Code code) {
  std::string name = CodeName(code);
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name;
}

agent::v1::CpuRequest CpuRequestFor(const std::vector<uint32_t>& ids) {
  agent::v1::CpuRequest request;
  for (const uint32_t id : ids) {
    request.add_id(id);
  }
  return request;
}

agent::v1::MemoryRequest MemoryRequestFor(const MemoryTarget& target) {
  agent::v1::MemoryRequest request;
  request.set_start(target.start);
  request.set_size(target.size);
  request.set_bytes(target.bytes);
  return request;
}

}  // namespace

const Session::MethodName& Session::NameOf(Method method) {
  static constexpr std::array<MethodName, static_cast<size_t>(Method::kCount)> kNames = {{
      {"Hello", "hello"},
      {"PciRescan", "pci_rescan"},
      {"PciRemove", "pci_remove"},
      {"CpuOnline", "cpu_online"},
      {"CpuOffline", "cpu_offline"},
      {"MemoryOnline", "memory_online"},
      {"MemoryOffline", "memory_offline"},
  }};
  return kNames.at(static_cast<size_t>(method));
}

Session::Session(SessionOptions options) : options_(std::move(options)) {}

Session::~Session() {
  Close();
}

Result<agent::v1::PciRescanResponse> Session::PciRescan(const std::string& address,
                                                        const agent::v1::DeviceIdentity& identity,
                                                        Time deadline) {
  agent::v1::PciRescanRequest request;
  request.set_address(address);
  *request.mutable_identity() = identity;
  return Call<agent::v1::PciRescanResponse>(
      Method::kPciRescan, request, deadline,
      [](const auto& asked, const auto& answer) { return CheckAnswer(asked, answer); });
}

Result<> Session::PciRemove(const std::string& address, bool force, Time deadline) {
  agent::v1::PciRemoveRequest request;
  request.set_address(address);
  request.set_force(force);
  WV_TRY_VOID(Call<agent::v1::PciRemoveResponse>(
      Method::kPciRemove, request, deadline,
      [](const auto& asked, const auto& answer) { return CheckAnswer(asked, answer); }));
  return {};
}

Result<agent::v1::CpuResponse> Session::CpuOnline(const std::vector<uint32_t>& ids, Time deadline) {
  return Call<agent::v1::CpuResponse>(
      Method::kCpuOnline, CpuRequestFor(ids), deadline,
      [](const auto& asked, const auto& answer) { return CheckAnswer(asked, answer, true); });
}

Result<agent::v1::CpuResponse> Session::CpuOffline(const std::vector<uint32_t>& ids,
                                                   Time deadline) {
  return Call<agent::v1::CpuResponse>(
      Method::kCpuOffline, CpuRequestFor(ids), deadline,
      [](const auto& asked, const auto& answer) { return CheckAnswer(asked, answer, false); });
}

Result<agent::v1::MemoryResponse> Session::MemoryOnline(const MemoryTarget& target, Time deadline) {
  return Call<agent::v1::MemoryResponse>(
      Method::kMemoryOnline, MemoryRequestFor(target), deadline,
      [](const auto& asked, const auto& answer) { return CheckAnswer(asked, answer, true); });
}

Result<agent::v1::MemoryResponse> Session::MemoryOffline(const MemoryTarget& target,
                                                         Time deadline) {
  return Call<agent::v1::MemoryResponse>(
      Method::kMemoryOffline, MemoryRequestFor(target), deadline,
      [](const auto& asked, const auto& answer) { return CheckAnswer(asked, answer, false); });
}

template <typename Resp, typename Req, typename Check>
Result<Resp> Session::Call(Method method, Req request, Time deadline, Check check) {
  const Time begin = Clock::now();
  auto answer = Repeat<Resp>(method, request, deadline);
  if (answer) {
    if (auto checked = check(request, *answer); !checked) {
      answer = tl::unexpected(std::move(checked).error());
    }
  }
  Count(method, begin, answer ? Code::kOk : answer.error().code());
  if (!answer) {
    return tl::unexpected(std::move(answer).error().WithContext(NameOf(method).method));
  }
  return answer;
}

template <typename Resp, typename Req>
Result<Resp> Session::Repeat(Method method, Req& request, Time deadline) {
  for (int cuts = 0;;) {
    WV_TRY(const auto client, Stream(deadline));
    const milliseconds left = Left(deadline);
    if (left.count() == 0) {
      return Late();
    }
    request.set_deadline_ms(AgentsShare(left));
    auto answer =
        client->Call<Req, Resp>(kServiceName, NameOf(method).method, request, {.timeout = left});
    if (answer) {
      return answer;
    }
    const Code code = answer.error().code();
    // The agent's UNAVAILABLE comes on a stream that lives.
    if (code == Code::kUnavailable && client->closed()) {
      Drop(client);
      if (++cuts <= kMaxCuts) {
        continue;
      }
      return Fail(Code::kUnavailable, "the guest's agent cuts the upcall channel again and again");
    }
    if (code == Code::kDeadlineExceeded && Clock::now() >= deadline) {
      Suspect(client);
      return Late();
    }
    return Fail(code, "the guest's agent: " + PlainText(answer.error().message(), kMaxGuestError));
  }
}

Result<std::shared_ptr<ttrpc::Client>> Session::Stream(Time deadline) {
  milliseconds pause = kFirstPause;
  std::unique_lock lock(mu_);
  while (true) {
    if (closed_) {
      return Closed();
    }
    if (Clock::now() >= deadline) {
      return Late();
    }
    if (client_ && client_->closed()) {
      client_.reset();
    }
    if (client_ && !suspect_) {
      return client_;
    }
    if (establishing_) {
      changed_.wait_until(lock, deadline);
      continue;
    }
    establishing_ = true;
    const uint64_t resets = resets_;
    auto suspect = std::exchange(client_, nullptr);
    opening_ = std::make_shared<Opening>();
    lock.unlock();
    auto established = Establish(std::move(suspect), deadline);
    lock.lock();
    establishing_ = false;
    opening_.reset();
    changed_.notify_all();
    if (established && resets == resets_ && !closed_) {
      client_ = *std::move(established);
      suspect_ = false;
      return client_;
    }
    if (established || closed_ || resets != resets_) {
      continue;  // the channel has changed meanwhile; or this is the end
    }
    if (established.error().code() != Code::kUnavailable) {
      return established;
    }
    changed_.wait_until(lock, std::min(deadline, Clock::now() + pause), [this] { return closed_; });
    if (Clock::now() >= deadline) {
      return established;  // why, not only that it is late
    }
    pause = std::min(pause * 2, kLongestPause);
  }
}

Result<std::shared_ptr<ttrpc::Client>> Session::Establish(std::shared_ptr<ttrpc::Client> suspect,
                                                          Time deadline) {
  if (suspect) {
    if (Greet(suspect, std::min(deadline, Clock::now() + kHelloPatience))) {
      return suspect;
    }
    suspect->Close();  // others' calls in flight go to the next
    suspect.reset();
  }
  std::shared_ptr<Opening> opening;
  {
    const std::lock_guard lock(mu_);
    opening = opening_;
    ++streams_;
  }
  WV_TRY(UniqueFd socket, opening->Open(options_.open, deadline));
  WV_TRY(std::shared_ptr<ttrpc::Client> client,
         ttrpc::Client::Create(std::move(socket), {.name = "upcall",
                                                   .max_unsent_bytes = 1 << 20,
                                                   .on_thread_start = options_.on_thread_start}));
  WV_TRY_VOID(Greet(client, deadline));
  return client;
}

Result<> Session::Greet(const std::shared_ptr<ttrpc::Client>& client, Time deadline) {
  const Time begin = Clock::now();
  const milliseconds left = Left(deadline);
  if (left.count() == 0) {
    return Late();
  }
  {
    const std::lock_guard lock(mu_);
    if (closed_) {
      return Closed();
    }
    greeting_ = client;
  }
  agent::v1::UpcallHelloRequest request;
  request.set_protocol(kProtocol);
  auto answer = client->Call<agent::v1::UpcallHelloRequest, agent::v1::UpcallHelloResponse>(
      kServiceName, NameOf(Method::kHello).method, request, {.timeout = left});
  {
    const std::lock_guard lock(mu_);
    greeting_.reset();
  }
  Result<> greeted;
  if (!answer) {
    greeted = Fail(answer.error().code(),
                   "Hello: " + PlainText(answer.error().message(), kMaxGuestError));
  } else {
    greeted = CheckAnswer(*answer);
  }
  Count(Method::kHello, begin, greeted ? Code::kOk : greeted.error().code());
  return greeted;
}

void Session::Drop(const std::shared_ptr<ttrpc::Client>& client) {
  const std::lock_guard lock(mu_);
  if (client_ == client) {
    client_.reset();
  }
}

void Session::Suspect(const std::shared_ptr<ttrpc::Client>& client) {
  WV_WARN_LIMITED("upcall: the guest's agent let a call pass its deadline");
  const std::lock_guard lock(mu_);
  if (client_ == client) {
    suspect_ = true;
  }
}

void Session::Reset() {
  const std::lock_guard lock(mu_);
  ++resets_;
  EndStreamsLocked();
  client_.reset();
}

void Session::Close() {
  const std::lock_guard lock(mu_);
  closed_ = true;
  EndStreamsLocked();
  changed_.notify_all();
}

void Session::EndStreamsLocked() {
  for (const auto& client : {client_, greeting_}) {
    if (client) {
      client->Close();
    }
  }
  if (opening_) {
    opening_->Cancel();
  }
}

void Session::Count(Method method, Time begin, Code code) {
  const auto micros = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count());
  const std::lock_guard lock(mu_);
  MethodCounters& counters = counters_.at(static_cast<size_t>(method));
  ++counters.calls;
  counters.micros += micros;
  counters.max_micros = std::max(counters.max_micros, micros);
  if (code != Code::kOk) {
    ++counters.failures[code];
  }
}

std::map<std::string, uint64_t> Session::counters() const {
  std::map<std::string, uint64_t> all;
  const std::lock_guard lock(mu_);
  all["upcall.streams"] = streams_;
  for (size_t i = 0; i < counters_.size(); ++i) {
    const MethodCounters& counters = counters_.at(i);
    if (counters.calls == 0) {
      continue;
    }
    const std::string prefix = fmt::format("upcall.{}.", NameOf(static_cast<Method>(i)).counter);
    all[prefix + "calls"] = counters.calls;
    all[prefix + "micros"] = counters.micros;
    all[prefix + "max_micros"] = counters.max_micros;
    for (const auto& [code, count] : counters.failures) {
      all[prefix + "failures." + LowerName(code)] = count;
    }
  }
  return all;
}

}  // namespace wyvern::upcall
