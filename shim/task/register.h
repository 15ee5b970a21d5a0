// task/register.h — puts the task service on a ttrpc server, as containerd.task.v2.Task and containerd.task.v3.Task.
#pragma once

#include "task/service.h"
#include "ttrpc/server.h"

namespace wyvern::shim {

// Service and pool outlive the server.
void RegisterTaskService(ttrpc::Server& server, TaskService& service, ttrpc::BlockingPool& pool);

}  // namespace wyvern::shim
