#include "agent/upcall_service.h"

#include <fmt/format.h>

#include <utility>

#include "agent/cpu_hotplug.h"
#include "agent/memory_hotplug.h"
#include "agent/version.h"
#include "upcall/preamble.h"

namespace wyvern::agent {
namespace {

using ttrpc::CallContext;

constexpr uint32_t kDefaultDeadlineMs = 5000;
constexpr uint32_t kLongestDeadlineMs = 600'000;

Result<Lane::TimePoint> DeadlineOf(uint32_t milliseconds) {
  if (milliseconds > kLongestDeadlineMs) {
    return Fail(Code::kInvalidArgument, fmt::format("deadline_ms: at most {}", kLongestDeadlineMs));
  }
  return std::chrono::steady_clock::now() +
         std::chrono::milliseconds(milliseconds == 0 ? kDefaultDeadlineMs : milliseconds);
}

}  // namespace

UpcallService::UpcallService(EventLoop& loop, const KernelFiles& files)
    : files_(files),
      pci_(files),
      pci_lane_(loop, "upcall-pci"),
      cpu_lane_(loop, "upcall-cpu"),
      memory_lane_(loop, "upcall-memory") {}

void UpcallService::Wake() {
  pci_lane_.Wake();
  cpu_lane_.Wake();
  memory_lane_.Wake();
}

template <typename Req, typename Resp>
void UpcallService::Add(ttrpc::Server& server, const char* method, Lane& lane,
                        MakeJob<Req, Resp> make) {
  server.RegisterUnary<Req, Resp>(
      upcall::kServiceName, method,
      [this, &lane, make = std::move(make)](const Req& request, const CallContext& context,
                                            const Responder<Resp>& responder) {
        if (!greeted_.contains(context.connection)) {
          responder.Fail(Error(Code::kFailedPrecondition, "Hello comes first on each stream"));
          return;
        }
        auto submitted = DeadlineOf(request.deadline_ms()).and_then([&](Lane::TimePoint deadline) {
          return make(request, deadline, responder)
              .and_then([&lane, deadline](std::shared_ptr<Job> job) {
                return lane.Submit(std::move(job), deadline);
              });
        });
        if (!submitted) {
          responder.Fail(std::move(submitted).error());
        }
      });
}

void UpcallService::Register(ttrpc::Server& server) {
  server.RegisterUnary<v1::UpcallHelloRequest, v1::UpcallHelloResponse>(
      upcall::kServiceName, "Hello",
      [this](const v1::UpcallHelloRequest& request, const CallContext& context,
             const Responder<v1::UpcallHelloResponse>& responder) {
        responder.Answer(Hello(request, context.connection));
      });
  Add<v1::PciRescanRequest, v1::PciRescanResponse>(
      server, "PciRescan", pci_lane_, [this](const auto& request, auto, auto responder) {
        return pci_.Rescan(request, std::move(responder));
      });
  Add<v1::PciRemoveRequest, v1::PciRemoveResponse>(
      server, "PciRemove", pci_lane_, [this](const auto& request, auto, auto responder) {
        return pci_.Remove(request, std::move(responder));
      });
  for (const bool online : {true, false}) {
    Add<v1::CpuRequest, v1::CpuResponse>(server, online ? "CpuOnline" : "CpuOffline", cpu_lane_,
                                         [this, online](const auto& request, auto, auto responder) {
                                           return MakeCpuJob(files_, request, online,
                                                             std::move(responder));
                                         });
    Add<v1::MemoryRequest, v1::MemoryResponse>(
        server, online ? "MemoryOnline" : "MemoryOffline", memory_lane_,
        [this, online](const auto& request, auto deadline, auto responder) {
          return MakeMemoryJob(files_, request, online, deadline, std::move(responder));
        });
  }
}

Result<v1::UpcallHelloResponse> UpcallService::Hello(const v1::UpcallHelloRequest& request,
                                                     const Connection& connection) {
  if (request.protocol() != upcall::kProtocol) {
    return Fail(Code::kUnimplemented,
                fmt::format("the VMM speaks protocol {} of the upcall and the guest's agent {}: "
                            "image and host programs are of different versions",
                            request.protocol(), upcall::kProtocol));
  }
  std::erase_if(greeted_, [](const Connection& gone) { return gone.expired(); });
  greeted_.insert(connection);
  v1::UpcallHelloResponse response;
  response.set_protocol(upcall::kProtocol);
  response.set_agent_version(kVersion);
  response.set_boot_id(files_.Read("/proc/sys/kernel/random/boot_id").value_or(""));
  return response;
}

}  // namespace wyvern::agent
