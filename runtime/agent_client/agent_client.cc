#include "agent_client/agent_client.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "base/log.h"
#include "base/worker_thread.h"

namespace wyvern::runtime {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr char kService[] = "wyvern.agent.v1.Agent";
constexpr uint32_t kProtocol = 1;
constexpr size_t kEntropyBytes = 64;
// Events that wait for us: an honest one names a container, in 128 bytes at most.
constexpr size_t kMaxEvents = 1024;
constexpr size_t kMaxEventBytes = 1U << 20;
// include/linux/kdev_t.h
constexpr uint32_t kMaxMajor = (1U << 12U) - 1;
constexpr uint32_t kMaxMinor = (1U << 20U) - 1;
constexpr milliseconds kFirstRetry{2};
constexpr milliseconds kLastRetry{50};

Result<std::string> RandomBytes(size_t size) {
  std::string out(size, '\0');
  // Up to 256 bytes are delivered whole (getrandom(2)).
  if (getrandom(out.data(), out.size(), 0) != static_cast<ssize_t>(size)) {
    return SysError("getrandom");
  }
  return out;
}

agent_pb::ProcessRef Ref(const std::string& id, const std::string& exec_id) {
  agent_pb::ProcessRef ref;
  ref.set_id(id);
  ref.set_exec_id(exec_id);
  return ref;
}

agent_pb::ContainerRef Ref(const std::string& id) {
  agent_pb::ContainerRef ref;
  ref.set_id(id);
  return ref;
}

// Until the agent listens the guest answers with a reset, and before its driver is up not at all.
Result<UniqueFd> ConnectWithRetries(const GuestConnector& connector, const AgentOptions& options) {
  const auto deadline = steady_clock::now() + options.boot_timeout;
  milliseconds delay = kFirstRetry;
  while (true) {
    auto stream = connector(kAgentPort);
    if (stream.has_value()) {
      return stream;
    }
    const Code code = stream.error().code();
    if (code != Code::kUnavailable && code != Code::kDeadlineExceeded && code != Code::kNotFound) {
      return tl::unexpected(std::move(stream).error().WithContext("connecting to the agent"));
    }
    if (options.give_up && options.give_up()) {
      return Fail(Code::kUnavailable, "the virtual machine ended before its agent answered");
    }
    if (steady_clock::now() + delay > deadline) {
      return Fail(Code::kDeadlineExceeded,
                  fmt::format("the agent in the guest did not answer within {} ms (timeouts.boot)",
                              options.boot_timeout.count()));
    }
    std::this_thread::sleep_for(delay);
    delay = std::min(delay * 3 / 2, kLastRetry);
  }
}

}  // namespace

struct AgentClient::Rep {
  GuestConnector connector;
  AgentOptions options;
  std::unique_ptr<ttrpc::Client> client;
  std::unique_ptr<WorkerThread> events;
};

AgentClient::AgentClient(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

AgentClient::~AgentClient() {
  Close();
}

void AgentClient::Close() {
  rep_->client->CloseAndWait();
  if (rep_->events != nullptr) {
    rep_->events->Join();
  }
}

Result<std::unique_ptr<AgentClient>> AgentClient::Connect(GuestConnector connector,
                                                          AgentOptions options) {
  WV_TRY(UniqueFd stream, ConnectWithRetries(connector, options));
  auto rep = std::make_unique<Rep>();
  rep->connector = std::move(connector);
  rep->options = std::move(options);
  ttrpc::ClientOptions client_options;
  client_options.name = "agent-client";
  client_options.max_stream_messages = kMaxEvents;
  client_options.max_stream_bytes = kMaxEventBytes;
  client_options.on_close = rep->options.on_close;
  WV_TRY(rep->client, ttrpc::Client::Create(std::move(stream), std::move(client_options)));
  std::unique_ptr<AgentClient> client(new AgentClient(std::move(rep)));
  WV_TRY_VOID(client->Hello());
  return client;
}

template <typename Response, typename Request>
Result<Response> AgentClient::Call(const char* method, const Request& request,
                                   milliseconds timeout) {
  ttrpc::CallOptions options;
  options.timeout = timeout;
  return rep_->client->Call<Request, Response>(kService, method, request, options);
}

template <typename Request>
Result<> AgentClient::CallEmpty(const char* method, const Request& request) {
  WV_TRY_VOID((Call<agent_pb::Empty>(method, request, rep_->options.call_timeout)));
  return {};
}

Result<> AgentClient::Hello() {
  agent_pb::HelloRequest request;
  request.set_protocol(kProtocol);
  request.set_realtime_ns(std::chrono::duration_cast<std::chrono::nanoseconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count());
  WV_TRY(*request.mutable_entropy(), RandomBytes(kEntropyBytes));
  WV_TRY_CONTEXT(hello_,
                 (Call<agent_pb::HelloResponse>("Hello", request, rep_->options.call_timeout)),
                 "greeting the agent");
  if (hello_.protocol() != kProtocol) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the guest image's agent speaks protocol {}, this runtime {}: install "
                            "both from one version",
                            hello_.protocol(), kProtocol));
  }
  return {};
}

Result<UniqueFd> AgentClient::DialTcp(uint16_t port) {
  agent_pb::DialTcpRequest request;
  request.set_port(port);
  WV_TRY(UniqueFd stream, OpenStream(request.mutable_token()));
  WV_TRY_VOID(CallEmpty("DialTcp", request));
  return stream;
}

Result<> AgentClient::AddSocket(const agent_pb::AddSocketRequest& request) {
  return CallEmpty("AddSocket", request);
}

Result<UniqueFd> AgentClient::AcceptSocket(const std::string& name) {
  agent_pb::AcceptSocketRequest request;
  request.set_name(name);
  WV_TRY(UniqueFd stream, OpenStream(request.mutable_token()));
  WV_TRY_VOID(CallEmpty("AcceptSocket", request));
  return stream;
}

Result<> AgentClient::SharePids() {
  return CallEmpty("SharePids", agent_pb::Empty());
}

Result<agent_pb::CreateSandboxResponse> AgentClient::CreateSandbox(
    const agent_pb::CreateSandboxRequest& request) {
  WV_TRY(auto response, (Call<agent_pb::CreateSandboxResponse>("CreateSandbox", request,
                                                               rep_->options.call_timeout)));
  WV_TRY(rep_->events,
         WorkerThread::Start("agent-events", [this](const EventFd&) { WatchEvents(); }));
  return response;
}

void AgentClient::WatchEvents() {
  auto stream =
      rep_->client->OpenStream<agent_pb::Empty, agent_pb::Event>(kService, "WatchEvents", {});
  if (!stream.has_value()) {
    WV_WARN("agent events: {}", stream.error().message());
    return;
  }
  while (true) {
    const auto answer = stream->Read();
    if (!answer.has_value()) {
      if (answer.error().code() != Code::kUnavailable) {  // else the connection ended
        WV_WARN("agent events: no more of them: code {}", static_cast<int>(answer.error().code()));
      }
      return;
    }
    const std::optional<agent_pb::Event>& event = *answer;
    if (!event.has_value()) {
      return;
    }
    if (event->has_oom() && rep_->options.on_oom) {
      rep_->options.on_oom(event->container_id());
    } else if (event->has_guest_oom() && rep_->options.on_guest_oom) {
      rep_->options.on_guest_oom(event->container_id());
    } else if (event->what_case() == agent_pb::Event::kSocket && rep_->options.on_socket) {
      rep_->options.on_socket(event->socket());
    }
  }
}

Result<UniqueFd> AgentClient::OpenStream(std::string* token) {
  WV_TRY(*token, RandomBytes(kStdioTokenSize));
  WV_TRY_CONTEXT(UniqueFd stream, rep_->connector(kStdioPort), "opening a stdio stream");
  WV_TRY_VOID_CONTEXT(WriteAll(stream, std::string_view(*token)), "opening a stdio stream");
  return stream;
}

Result<StdioStreams> AgentClient::OpenStdio(const StdioWanted& wanted) {
  StdioStreams streams;
  streams.message.set_terminal(wanted.terminal);
  streams.message.set_rows(wanted.rows);
  streams.message.set_columns(wanted.columns);
  if (wanted.in) {
    WV_TRY(streams.in, OpenStream(streams.message.mutable_stdin_token()));
  }
  if (wanted.out) {
    WV_TRY(streams.out, OpenStream(streams.message.mutable_stdout_token()));
  }
  if (wanted.err && !wanted.terminal) {
    WV_TRY(streams.err, OpenStream(streams.message.mutable_stderr_token()));
  }
  return streams;
}

Result<> AgentClient::CreateContainer(const std::string& id, const std::string& config_json,
                                      const agent_pb::Stdio& stdio) {
  agent_pb::CreateContainerRequest request;
  request.set_id(id);
  request.set_config_json(config_json);
  *request.mutable_stdio() = stdio;
  WV_TRY_VOID((Call<agent_pb::CreateContainerResponse>("CreateContainer", request,
                                                       rep_->options.call_timeout)));
  return {};
}

Result<> AgentClient::AddProcess(const std::string& id, const std::string& exec_id,
                                 const std::string& process_json, const agent_pb::Stdio& stdio) {
  agent_pb::AddProcessRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  request.set_process_json(process_json);
  *request.mutable_stdio() = stdio;
  return CallEmpty("AddProcess", request);
}

Result<> AgentClient::AddGuestProcess(const std::string& exec_id, agent_pb::GuestCommand command,
                                      const agent_pb::Stdio& stdio) {
  agent_pb::AddProcessRequest request;
  request.set_exec_id(exec_id);
  *request.mutable_guest() = std::move(command);
  *request.mutable_stdio() = stdio;
  return CallEmpty("AddProcess", request);
}

Result<> AgentClient::StartProcess(const std::string& id, const std::string& exec_id) {
  WV_TRY_VOID((Call<agent_pb::StartProcessResponse>("StartProcess", Ref(id, exec_id),
                                                    rep_->options.call_timeout)));
  return {};
}

void AgentClient::WaitProcess(const std::string& id, const std::string& exec_id,
                              std::function<void(Result<uint32_t>)> done) {
  rep_->client->CallAsync<agent_pb::ProcessRef, agent_pb::WaitProcessResponse>(
      kService, "WaitProcess", Ref(id, exec_id), {},
      [done = std::move(done)](Result<agent_pb::WaitProcessResponse> response) {
        if (!response.has_value()) {
          done(tl::unexpected(std::move(response).error()));
          return;
        }
        done(std::min<uint32_t>(response->exit_status(), 255));
      });
}

Result<> AgentClient::SignalProcess(const std::string& id, const std::string& exec_id,
                                    uint32_t signal, bool all, milliseconds limit) {
  agent_pb::SignalRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  request.set_signal(signal);
  request.set_all(all);
  WV_TRY_VOID((Call<agent_pb::Empty>("SignalProcess", request,
                                     limit.count() > 0 ? limit : rep_->options.call_timeout)));
  return {};
}

Result<> AgentClient::ResizeTerminal(const std::string& id, const std::string& exec_id,
                                     uint32_t rows, uint32_t columns) {
  agent_pb::ResizeRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  request.set_rows(rows);
  request.set_columns(columns);
  return CallEmpty("ResizeTerminal", request);
}

Result<> AgentClient::CloseStdin(const std::string& id, const std::string& exec_id) {
  return CallEmpty("CloseStdin", Ref(id, exec_id));
}

Result<> AgentClient::DeleteProcess(const std::string& id, const std::string& exec_id) {
  WV_TRY_VOID((Call<agent_pb::WaitProcessResponse>("DeleteProcess", Ref(id, exec_id),
                                                   rep_->options.call_timeout)));
  return {};
}

Result<> AgentClient::PauseContainer(const std::string& id) {
  return CallEmpty("PauseContainer", Ref(id));
}

Result<> AgentClient::ResumeContainer(const std::string& id) {
  return CallEmpty("ResumeContainer", Ref(id));
}

Result<> AgentClient::UpdateContainer(const std::string& id, const std::string& resources_json) {
  agent_pb::UpdateRequest request;
  request.set_id(id);
  request.set_resources_json(resources_json);
  return CallEmpty("UpdateContainer", request);
}

Result<agent_pb::ContainerStatsResponse> AgentClient::ContainerStats(const std::string& id,
                                                                     milliseconds limit) {
  return Call<agent_pb::ContainerStatsResponse>(
      "ContainerStats", Ref(id), limit.count() > 0 ? limit : rep_->options.call_timeout);
}

Result<agent_pb::GuestUsageResponse> AgentClient::GuestUsage(milliseconds limit) {
  return Call<agent_pb::GuestUsageResponse>("GuestUsage", agent_pb::Empty(),
                                            limit.count() > 0 ? limit : rep_->options.call_timeout);
}

Result<> AgentClient::SyncFilesystems(milliseconds timeout) {
  WV_TRY_VOID((Call<agent_pb::Empty>("SyncFilesystems", agent_pb::Empty(), timeout)));
  return {};
}

Result<> AgentClient::DetachShare(const std::string& name) {
  agent_pb::DetachShareRequest request;
  request.set_name(name);
  return CallEmpty("DetachShare", request);
}

Result<agent_pb::AddDiskResponse> AgentClient::AddDisk(const agent_pb::AddDiskRequest& request) {
  WV_TRY(auto response,
         (Call<agent_pb::AddDiskResponse>("AddDisk", request, rep_->options.call_timeout)));
  // They go into the container's configuration, which the guest reads; others would only be confusing.
  if (response.major() == 0 || response.major() > kMaxMajor || response.minor() > kMaxMinor) {
    return Fail(Code::kInternal, fmt::format("the guest says that a disk is device {}:{}",
                                             response.major(), response.minor()));
  }
  return response;
}

Result<agent_pb::RemoveDiskResponse> AgentClient::RemoveDisk(const std::string& serial) {
  agent_pb::RemoveDiskRequest request;
  request.set_serial(serial);
  return Call<agent_pb::RemoveDiskResponse>("RemoveDisk", request, rep_->options.call_timeout);
}

Result<agent_pb::DiskUsageResponse> AgentClient::DiskUsage(const std::string& serial, bool grow,
                                                           milliseconds limit) {
  agent_pb::DiskUsageRequest request;
  request.set_serial(serial);
  request.set_grow(grow);
  return Call<agent_pb::DiskUsageResponse>("DiskUsage", request,
                                           limit.count() > 0 ? limit : rep_->options.call_timeout);
}

Result<> AgentClient::SetNetwork(const agent_pb::SetNetworkRequest& request, milliseconds limit) {
  WV_TRY_VOID((Call<agent_pb::Empty>("SetNetwork", request,
                                     limit.count() > 0 ? limit : rep_->options.call_timeout)));
  return {};
}

Result<> AgentClient::AddVolume(const agent_pb::AddVolumeRequest& request) {
  return CallEmpty("AddVolume", request);
}

Result<> AgentClient::SetVolumeFiles(const agent_pb::SetVolumeFilesRequest& request,
                                     milliseconds limit) {
  WV_TRY_VOID((Call<agent_pb::Empty>("SetVolumeFiles", request,
                                     limit.count() > 0 ? limit : rep_->options.call_timeout)));
  return {};
}

Result<> AgentClient::RemoveVolume(const std::string& name) {
  agent_pb::RemoveVolumeRequest request;
  request.set_name(name);
  return CallEmpty("RemoveVolume", request);
}

}  // namespace wyvern::runtime
