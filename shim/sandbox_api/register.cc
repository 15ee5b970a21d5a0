#include "sandbox_api/register.h"

namespace wyvern::shim {

namespace {

constexpr char kName[] = "containerd.runtime.sandbox.v1.Sandbox";

template <typename Req, typename Resp>
void Direct(ttrpc::Server& server, const char* method, SandboxService& service,
            Result<Resp> (SandboxService::*function)(const Req&)) {
  server.RegisterUnary<Req, Resp>(kName, method,
                                  [&service, function](Req request, const ttrpc::CallContext&,
                                                       ttrpc::Responder<Resp> responder) {
                                    responder.Answer((service.*function)(request));
                                  });
}

template <typename Req, typename Resp>
void Pooled(ttrpc::Server& server, const char* method, SandboxService& service,
            ttrpc::BlockingPool& pool, Result<Resp> (SandboxService::*function)(const Req&)) {
  server.RegisterUnary<Req, Resp>(
      kName, method,
      ttrpc::Blocking<Req, Resp>(
          pool, [&service, function](const Req& request, const ttrpc::CallContext&) {
            return (service.*function)(request);
          }));
}

}  // namespace

void RegisterSandboxService(ttrpc::Server& server, SandboxService& service,
                            ttrpc::BlockingPool& pool) {
  Pooled(server, "CreateSandbox", service, pool, &SandboxService::Create);
  Pooled(server, "StartSandbox", service, pool, &SandboxService::Start);
  Direct(server, "Platform", service, &SandboxService::Platform);
  Pooled(server, "StopSandbox", service, pool, &SandboxService::Stop);
  Direct(server, "SandboxStatus", service, &SandboxService::Status);
  Direct(server, "PingSandbox", service, &SandboxService::Ping);
  Pooled(server, "ShutdownSandbox", service, pool, &SandboxService::Shutdown);
  Pooled(server, "SandboxMetrics", service, pool, &SandboxService::Metrics);
  server.RegisterUnary<sandbox_pb::WaitSandboxRequest, sandbox_pb::WaitSandboxResponse>(
      kName, "WaitSandbox",
      [&service](const sandbox_pb::WaitSandboxRequest& request, const ttrpc::CallContext&,
                 WaitSandboxResponder responder) { service.Wait(request, std::move(responder)); });
}

}  // namespace wyvern::shim
