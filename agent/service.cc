#include "agent/service.h"

#include <signal.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "agent/block_disk.h"
#include "agent/guest_hooks.h"
#include "agent/guest_usage.h"
#include "agent/kernel_files.h"
#include "agent/machine.h"
#include "agent/version.h"
#include "base/log.h"

namespace wyvern::agent {
namespace {

constexpr char kService[] = "wyvern.agent.v1.Agent";
constexpr uint32_t kProtocol = 1;

using ttrpc::CallContext;

// A callback that answers a call without content.
std::function<void(Result<>)> AnswerEmpty(ttrpc::Responder<v1::Empty> responder) {
  return [responder = std::move(responder)](Result<> result) {
    if (result) {
      responder.Ok({});
    } else {
      responder.Fail(std::move(result).error());
    }
  };
}

Result<v1::Empty> ToEmpty(Result<> result) {
  if (!result) {
    return tl::unexpected(std::move(result).error());
  }
  return v1::Empty();
}

}  // namespace

Result<std::unique_ptr<Service>> Service::Create(EventLoop& loop, Reaper& reaper, Crun& crun,
                                                 StdioHub& stdio, ServiceOptions options) {
  std::unique_ptr<Service> service(new Service(loop, reaper, crun, stdio, std::move(options)));
  Service* raw = service.get();
  WV_TRY(service->oom_, OomWatch::Create(loop, [raw](const std::string& id, OomWatch::Reach reach) {
           raw->OnOom(id, reach);
         }));
  service->environment_ = std::make_unique<Environment>(
      Environment{.loop = loop,
                  .reaper = reaper,
                  .crun = crun,
                  .stdio = stdio,
                  .oom = *service->oom_,
                  .idle_cache = service->idle_cache_,
                  .pod = service->pod_,
                  .containers_dir = service->options_.root_dir + "/containers",
                  .scratch_dir = service->options_.root_dir + "/scratch"});
  service->guest_ = std::make_shared<GuestProcesses>(*service->environment_);
  return service;
}

Service::Service(EventLoop& loop, Reaper& reaper, Crun& crun, StdioHub& stdio,
                 ServiceOptions options)
    : crun_(crun),
      options_(std::move(options)),
      policy_(options_.allow),
      pod_(crun, reaper, options_.root_dir + "/pod"),
      dialer_(loop, stdio),
      disks_(crun, options_.disks),
      network_(loop, options_.owns_machine),
      volumes_(loop, options_.volumes, policy_),
      sockets_(loop, stdio, options_.sockets, [this](const std::string& name) {
        v1::Event event;
        event.set_socket(name);
        Tell(event);
      }) {}

Service::~Service() = default;

void Service::Register(ttrpc::Server& server) {
  RegisterSandboxCalls(server);
  RegisterProcessCalls(server);
  RegisterContainerCalls(server);
  RegisterDeviceCalls(server);
  volumes_.Register(server, kService);
}

void Service::RegisterSandboxCalls(ttrpc::Server& server) {
  server.RegisterUnary<v1::HelloRequest, v1::HelloResponse>(
      kService, "Hello",
      [this](const v1::HelloRequest& request, const CallContext&,
             const Responder<v1::HelloResponse>& responder) { responder.Answer(Hello(request)); });
  server.RegisterUnary<v1::CreateSandboxRequest, v1::CreateSandboxResponse>(
      kService, "CreateSandbox",
      [this](const v1::CreateSandboxRequest& request, const CallContext&,
             const Responder<v1::CreateSandboxResponse>& responder) {
        responder.Answer(CreateSandbox(request));
      });
  server.RegisterUnary<v1::Empty, v1::Empty>(
      kService, "SharePids",
      [this](const v1::Empty&, const CallContext&, Responder<v1::Empty> responder) {
        pod_.SharePids(AnswerEmpty(std::move(responder)));
      });
  server.RegisterUnary<v1::Empty, v1::GuestUsageResponse>(
      kService, "GuestUsage",
      [this](const v1::Empty&, const CallContext&,
             const Responder<v1::GuestUsageResponse>& responder) {
        v1::GuestUsageResponse usage = ReadGuestUsage(KernelFiles());
        usage.set_refused_calls(policy_.refused());
        responder.Ok(usage);
      });
  server.RegisterServerStream<v1::Empty, v1::Event>(
      kService, "WatchEvents",
      [this](const v1::Empty&, const CallContext&, ttrpc::ServerStream<v1::Event> stream) {
        std::erase_if(watchers_, [](const auto& watcher) { return !watcher.alive(); });
        watchers_.push_back(std::move(stream));
      });
  server.RegisterUnary<v1::Empty, v1::Empty>(
      kService, "SyncFilesystems",
      [this](const v1::Empty&, const CallContext&, Responder<v1::Empty> responder) {
        SyncFilesystems(AnswerEmpty(std::move(responder)));
      });
  server.RegisterUnary<v1::DetachShareRequest, v1::Empty>(
      kService, "DetachShare",
      [this](const v1::DetachShareRequest& request, const CallContext&,
             Responder<v1::Empty> responder) { DetachShare(request, std::move(responder)); });
}

void Service::RegisterProcessCalls(ttrpc::Server& server) {
  // Registers a call that looks its process's place up and answers at once.
  const auto add = [&]<typename Req>(const char* name, std::in_place_type_t<Req>, auto call) {
    server.RegisterUnary<Req, v1::Empty>(
        kService, name,
        [this, call](const Req& request, const CallContext&,
                     const Responder<v1::Empty>& responder) {
          auto table = FindProcesses(request.id());
          responder.Answer(
              ToEmpty(table ? call(**table, request) : tl::unexpected(std::move(table).error())));
        });
  };
  add("AddProcess", std::in_place_type<v1::AddProcessRequest>,
      [this](ProcessTable& t, const v1::AddProcessRequest& r) {
        return policy_.Check(r.id().empty() ? Policy::What::kGuestExec : Policy::What::kExec)
            .and_then([&] { return CheckStdin(r.stdio()); })
            .and_then([&] { return t.AddProcess(r); });
      });
  add("SignalProcess", std::in_place_type<v1::SignalRequest>,
      [this](ProcessTable& t, const v1::SignalRequest& r) {
        // Whoever may not end a container would end its machine.
        return (r.signal() == SIGKILL ? Result<>() : policy_.Check(Policy::What::kSignal))
            .and_then([&] { return t.Signal(r.exec_id(), r.signal(), r.all()); });
      });
  add("ResizeTerminal", std::in_place_type<v1::ResizeRequest>,
      [](ProcessTable& t, const v1::ResizeRequest& r) {
        return t.Resize(r.exec_id(), r.rows(), r.columns());
      });
  add("CloseStdin", std::in_place_type<v1::ProcessRef>,
      [](ProcessTable& t, const v1::ProcessRef& r) { return t.CloseStdin(r.exec_id()); });
  server.RegisterUnary<v1::ProcessRef, v1::StartProcessResponse>(
      kService, "StartProcess",
      [this](const v1::ProcessRef& request, const CallContext&,
             const Responder<v1::StartProcessResponse>& responder) {
        auto table = FindProcesses(request.id());
        if (!table) {
          responder.Fail(std::move(table).error());
          return;
        }
        (*table)->StartProcess(request.exec_id(), [responder](Result<pid_t> pid) {
          if (!pid) {
            responder.Fail(std::move(pid).error());
            return;
          }
          v1::StartProcessResponse response;
          response.set_guest_pid(static_cast<uint32_t>(*pid));
          responder.Ok(response);
        });
      });
  server.RegisterUnary<v1::ProcessRef, v1::WaitProcessResponse>(
      kService, "WaitProcess",
      [this](const v1::ProcessRef& request, const CallContext&,
             Responder<v1::WaitProcessResponse> responder) {
        auto table = FindProcesses(request.id());
        if (!table) {
          responder.Fail(std::move(table).error());
          return;
        }
        (*table)->Wait(request.exec_id(), std::move(responder));
      });
  server.RegisterUnary<v1::ProcessRef, v1::WaitProcessResponse>(
      kService, "DeleteProcess",
      [this](const v1::ProcessRef& request, const CallContext&,
             Responder<v1::WaitProcessResponse> responder) {
        DeleteProcess(request, std::move(responder));
      });
}

void Service::RegisterContainerCalls(ttrpc::Server& server) {
  server.RegisterUnary<v1::CreateContainerRequest, v1::CreateContainerResponse>(
      kService, "CreateContainer",
      [this](const v1::CreateContainerRequest& request, const CallContext&,
             Responder<v1::CreateContainerResponse> responder) {
        CreateContainer(request, std::move(responder));
      });
  for (const bool freeze : {true, false}) {
    server.RegisterUnary<v1::ContainerRef, v1::Empty>(
        kService, freeze ? "PauseContainer" : "ResumeContainer",
        [this, freeze](const v1::ContainerRef& request, const CallContext&,
                       Responder<v1::Empty> responder) {
          auto container = FindTo(Policy::What::kPause, request.id());
          if (!container) {
            responder.Fail(std::move(container).error());
            return;
          }
          (*container)->Freeze(freeze, AnswerEmpty(std::move(responder)));
        });
  }
  server.RegisterUnary<v1::UpdateRequest, v1::Empty>(
      kService, "UpdateContainer",
      [this](const v1::UpdateRequest& request, const CallContext&, Responder<v1::Empty> responder) {
        auto container = FindTo(Policy::What::kUpdate, request.id());
        if (!container) {
          responder.Fail(std::move(container).error());
          return;
        }
        (*container)->Update(request.resources_json(), AnswerEmpty(std::move(responder)));
      });
  server.RegisterUnary<v1::ContainerRef, v1::ListProcessesResponse>(
      kService, "ListProcesses",
      [this](const v1::ContainerRef& request, const CallContext&,
             const Responder<v1::ListProcessesResponse>& responder) {
        responder.Answer(Find(request.id()).and_then([](const auto& c) { return c->List(); }));
      });
  server.RegisterUnary<v1::ContainerRef, v1::ContainerStatsResponse>(
      kService, "ContainerStats",
      [this](const v1::ContainerRef& request, const CallContext&,
             const Responder<v1::ContainerStatsResponse>& responder) {
        responder.Answer(Find(request.id()).and_then([](const auto& c) { return c->Stats(); }));
      });
}

void Service::RegisterDeviceCalls(ttrpc::Server& server) {
  server.RegisterUnary<v1::AddDiskRequest, v1::AddDiskResponse>(
      kService, "AddDisk",
      [this](const v1::AddDiskRequest& request, const CallContext&,
             const Responder<v1::AddDiskResponse>& responder) {
        disks_.Add(request, [responder](Result<v1::AddDiskResponse> added) {
          responder.Answer(std::move(added));
        });
      });
  server.RegisterUnary<v1::RemoveDiskRequest, v1::RemoveDiskResponse>(
      kService, "RemoveDisk",
      [this](const v1::RemoveDiskRequest& request, const CallContext&,
             const Responder<v1::RemoveDiskResponse>& responder) {
        disks_.Remove(request.serial(), [responder](Result<v1::RemoveDiskResponse> removed) {
          responder.Answer(std::move(removed));
        });
      });
  server.RegisterUnary<v1::DiskUsageRequest, v1::DiskUsageResponse>(
      kService, "DiskUsage",
      [this](const v1::DiskUsageRequest& request, const CallContext&,
             const Responder<v1::DiskUsageResponse>& responder) {
        disks_.Usage(request, [responder](Result<v1::DiskUsageResponse> usage) {
          responder.Answer(std::move(usage));
        });
      });
  server.RegisterUnary<v1::SetNetworkRequest, v1::Empty>(
      kService, "SetNetwork",
      [this](const v1::SetNetworkRequest& request, const CallContext&,
             const Responder<v1::Empty>& responder) { network_.Set(request, responder); });
  server.RegisterUnary<v1::DialTcpRequest, v1::Empty>(
      kService, "DialTcp",
      [this](const v1::DialTcpRequest& request, const CallContext&,
             const Responder<v1::Empty>& responder) {
        if (auto allowed = policy_.Check(Policy::What::kPortForward); !allowed) {
          responder.Fail(std::move(allowed).error());
          return;
        }
        dialer_.Dial(request, responder);
      });
  server.RegisterUnary<v1::AddSocketRequest, v1::Empty>(
      kService, "AddSocket",
      [this](const v1::AddSocketRequest& request, const CallContext&,
             const Responder<v1::Empty>& responder) {
        responder.Answer(ToEmpty(sockets_.Add(request)));
      });
  server.RegisterUnary<v1::AcceptSocketRequest, v1::Empty>(
      kService, "AcceptSocket",
      [this](const v1::AcceptSocketRequest& request, const CallContext&,
             const Responder<v1::Empty>& responder) {
        responder.Answer(ToEmpty(sockets_.Accept(request)));
      });
}

Result<std::shared_ptr<Container>> Service::Find(const std::string& id) const {
  const auto it = containers_.find(id);
  if (it == containers_.end()) {
    return Fail(Code::kNotFound, "container " + id + " not found");
  }
  return it->second;
}

Result<std::shared_ptr<Container>> Service::FindTo(Policy::What what, const std::string& id) const {
  WV_TRY_VOID(policy_.Check(what));
  return Find(id);
}

Result<> Service::CheckStdin(const v1::Stdio& stdio) const {
  return stdio.stdin_token().empty() ? Result<>() : policy_.Check(Policy::What::kStdin);
}

Result<std::shared_ptr<ProcessTable>> Service::FindProcesses(const std::string& id) const {
  if (id.empty()) {
    return guest_;
  }
  return Find(id);
}

Result<v1::HelloResponse> Service::Hello(const v1::HelloRequest& request) {
  if (request.protocol() != kProtocol) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the host speaks protocol {} and the guest's agent {}: image and host "
                            "programs are of different versions",
                            request.protocol(), kProtocol));
  }
  if (options_.owns_machine) {
    WV_TRY_VOID(SetClock(request.realtime_ns()));
    WV_TRY_VOID(AddEntropy(request.entropy()));
  }
  v1::HelloResponse response;
  response.set_protocol(kProtocol);
  response.set_agent_version(kVersion);
  response.set_kernel_release(KernelRelease());
  response.set_cpus_online(CpusOnline());
  response.set_memory_bytes(MemoryBytes());
  for (const TimelinePoint& point : options_.timeline) {
    auto* out = response.add_timeline();
    out->set_name(point.name);
    out->set_boottime_ns(point.boottime_ns);
  }
  for (std::string& name : BlockFilesystems(ReadFile("/proc/filesystems").value_or(""))) {
    response.add_block_filesystems(std::move(name));
  }
  if (policy_.limits()) {
    response.mutable_policy();
    for (const std::string_view name : policy_.allowed()) {
      response.mutable_policy()->add_allow(std::string(name));
    }
  }
  auto* now = response.add_timeline();
  now->set_name("hello");
  now->set_boottime_ns(BoottimeNs());
  return response;
}

Result<v1::CreateSandboxResponse> Service::CreateSandbox(const v1::CreateSandboxRequest& request) {
  if (sandbox_created_) {
    return Fail(Code::kAlreadyExists, "the sandbox was created already");
  }
  if (options_.owns_machine) {
    if (!request.hostname().empty()) {
      WV_TRY_VOID(SetHostname(request.hostname()));
    }
    if (!request.share_tag().empty()) {
      WV_TRY_VOID(MountShare(request.share_tag(), options_.root_dir + "/share"));
    }
    for (const std::string& sysctl : request.sysctls()) {
      WV_TRY_VOID(SetSysctl(sysctl));
    }
  }
  v1::CreateSandboxResponse response;
  if (!request.hooks().empty()) {
    WV_TRY_VOID(FindGuestHooks(request.hooks(), &response));
  }
  if (request.has_pod()) {
    WV_TRY_VOID(pod_.Create(request.pod()));
  }
  idle_cache_.Start(request.cache_reclaim());
  sandbox_created_ = true;
  return response;
}

void Service::CreateContainer(const v1::CreateContainerRequest& request,
                              Responder<v1::CreateContainerResponse> responder) {
  const std::string& id = request.id();
  if (!IsValidId(id)) {
    responder.Fail(Error(Code::kInvalidArgument, "bad container id"));
    return;
  }
  if (containers_.contains(id)) {
    responder.Fail(Error(Code::kAlreadyExists, "container " + id + " exists"));
    return;
  }
  if (auto allowed = CheckStdin(request.stdio()); !allowed) {
    responder.Fail(std::move(allowed).error());
    return;
  }
  if (options_.owns_machine) {
    MountExports(options_.root_dir + "/share");
  }
  auto container = std::make_shared<Container>(*environment_, id);
  containers_.emplace(id, container);
  container->Create(request, [this, id, responder = std::move(responder)](Result<pid_t> pid) {
    if (!pid) {
      containers_.erase(id);
      responder.Fail(std::move(pid).error());
      return;
    }
    v1::CreateContainerResponse response;
    response.set_guest_pid(static_cast<uint32_t>(*pid));
    responder.Ok(response);
  });
}

void Service::DeleteProcess(const v1::ProcessRef& request,
                            Responder<v1::WaitProcessResponse> responder) {
  if (request.id().empty() || !request.exec_id().empty()) {
    responder.Answer(FindProcesses(request.id()).and_then([&request](const auto& table) {
      return table->DeleteExec(request.exec_id());
    }));
    return;
  }
  auto container = Find(request.id());
  if (!container) {
    responder.Fail(std::move(container).error());
    return;
  }
  (*container)
      ->Delete([this, id = request.id(),
                responder = std::move(responder)](Result<v1::WaitProcessResponse> deleted) {
        if (deleted) {
          containers_.erase(id);
        }
        responder.Answer(std::move(deleted));
      });
}

void Service::SyncFilesystems(std::function<void(Result<>)> done) {
  struct stat status {};

  std::vector<std::string> args = disks_.Mounted();
  const std::string share = options_.root_dir + "/share";
  if (stat(share.c_str(), &status) == 0) {
    args.push_back(share);
  }
  if (args.empty()) {
    done({});
    return;
  }
  args.insert(args.begin(), "--syncfs");
  crun_.RunSelf(std::move(args), std::move(done));
}

void Service::DetachShare(const v1::DetachShareRequest& request, Responder<v1::Empty> responder) {
  if (!IsValidId(request.name())) {
    responder.Fail(Error(Code::kInvalidArgument, "bad name of an export"));
    return;
  }
  if (!options_.owns_machine) {
    responder.Ok({});
    return;
  }
  // The file server learns by FORGET which inodes it may close; the kernel sends them when its caches let go: those of a mount of
  // its own with the mount, others with all caches.
  if (DetachMount(options_.root_dir + "/share/" + request.name())) {
    responder.Ok({});
    return;
  }
  crun_.RunSelf({"--drop-caches"}, AnswerEmpty(std::move(responder)));
}

void Service::KillAll() {
  for (const auto& [id, container] : containers_) {
    container->KillAll();
  }
  guest_->KillAll();
  pod_.KillAll();
}

void Service::OnOom(const std::string& id, OomWatch::Reach reach) {
  WV_INFO("container {}: {}out of memory", id,
          reach == OomWatch::Reach::kGuest ? "the guest as a whole is " : "");
  v1::Event event;
  event.set_container_id(id);
  if (reach == OomWatch::Reach::kGuest) {
    event.mutable_guest_oom();
  } else {
    event.mutable_oom();
  }
  Tell(event);
}

void Service::Tell(const v1::Event& event) {
  std::erase_if(watchers_, [&event](const auto& watcher) { return !watcher.Send(event); });
}

}  // namespace wyvern::agent
