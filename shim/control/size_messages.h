// control/size_messages.h — the size of a sandbox, between the socket's messages and the runtime.
#pragma once

#include "proto/control.pb.h"
#include "sandbox/sandbox.h"

namespace wyvern::shim {

runtime::SizeWish WishOf(const control::v1::ResizeRequest& request);
control::v1::SizeResponse ToMessage(const runtime::SandboxSize& size);

}  // namespace wyvern::shim
