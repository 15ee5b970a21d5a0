#include "task/register.h"

#include "task/call_scope.h"

namespace wyvern::shim {

namespace {

// The calls that do not block are answered on the loop's thread, so that State stays quick whatever else goes on.
template <typename Req, typename Resp>
void Direct(ttrpc::Server& server, const std::string& name, const char* method,
            TaskService& service, Result<Resp> (TaskService::*function)(const Req&)) {
  server.RegisterUnary<Req, Resp>(name, method,
                                  [&service, function](Req request, const ttrpc::CallContext& call,
                                                       ttrpc::Responder<Resp> responder) {
                                    const CallScope scope(request.id(), call);
                                    responder.Answer((service.*function)(request));
                                  });
}

template <typename Req, typename Resp>
void Pooled(ttrpc::Server& server, const std::string& name, const char* method,
            TaskService& service, ttrpc::BlockingPool& pool,
            Result<Resp> (TaskService::*function)(const Req&)) {
  server.RegisterUnary<Req, Resp>(
      name, method,
      ttrpc::Blocking<Req, Resp>(
          pool, [&service, function](const Req& request, const ttrpc::CallContext& call) {
            const CallScope scope(request.id(), call);
            return (service.*function)(request);
          }));
}

}  // namespace

void RegisterTaskService(ttrpc::Server& server, TaskService& service, ttrpc::BlockingPool& pool) {
  for (const std::string name : {"containerd.task.v2.Task", "containerd.task.v3.Task"}) {
    Direct(server, name, "State", service, &TaskService::State);
    Direct(server, name, "Connect", service, &TaskService::Connect);
    Direct(server, name, "CloseIO", service, &TaskService::CloseIo);
    Direct(server, name, "Checkpoint", service, &TaskService::Checkpoint);
    Pooled(server, name, "Create", service, pool, &TaskService::Create);
    Pooled(server, name, "Start", service, pool, &TaskService::Start);
    Pooled(server, name, "Delete", service, pool, &TaskService::Delete);
    Pooled(server, name, "Exec", service, pool, &TaskService::Exec);
    Pooled(server, name, "Kill", service, pool, &TaskService::Kill);
    Pooled(server, name, "Pause", service, pool, &TaskService::Pause);
    Pooled(server, name, "Resume", service, pool, &TaskService::Resume);
    Pooled(server, name, "Update", service, pool, &TaskService::Update);
    Pooled(server, name, "ResizePty", service, pool, &TaskService::ResizePty);
    Pooled(server, name, "Pids", service, pool, &TaskService::Pids);
    Pooled(server, name, "Stats", service, pool, &TaskService::Stats);
    Pooled(server, name, "Shutdown", service, pool, &TaskService::Shutdown);
    server.RegisterUnary<task_pb::WaitRequest, task_pb::WaitResponse>(
        name, "Wait",
        [&service](const task_pb::WaitRequest& request, const ttrpc::CallContext&,
                   WaitResponder responder) { service.Wait(request, std::move(responder)); });
  }
}

}  // namespace wyvern::shim
