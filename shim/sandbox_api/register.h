// sandbox_api/register.h — the Sandbox API on a ttrpc server.
#pragma once

#include "sandbox_api/service.h"
#include "ttrpc/blocking.h"
#include "ttrpc/server.h"

namespace wyvern::shim {

// Before the server serves. All outlive it.
void RegisterSandboxService(ttrpc::Server& server, SandboxService& service,
                            ttrpc::BlockingPool& pool);

}  // namespace wyvern::shim
