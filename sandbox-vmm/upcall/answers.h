// upcall/answers.h — what the guest's agent says, held against what it was asked.
// Spec:    agent-proto/proto/upcall.proto.
// Errors:  DATA_LOSS: no answer to this request. An answer that passes may still be a lie, but not one that its caller cannot bear:
//          sizes, names and numbers are within the bounds of the file above.
// Threads: any.   Trust: none in the answers; requests are ours.
#pragma once

#include "base/error.h"
#include "proto/upcall.pb.h"

namespace wyvern::upcall {

inline constexpr uint32_t kMaxCpu = 1023;

Result<> CheckAnswer(const agent::v1::UpcallHelloResponse& answer);
Result<> CheckAnswer(const agent::v1::PciRescanRequest& request,
                     const agent::v1::PciRescanResponse& answer);
Result<> CheckAnswer(const agent::v1::PciRemoveRequest& request,
                     const agent::v1::PciRemoveResponse& answer);
// Each CPU of the request is as asked, or is refused.
Result<> CheckAnswer(const agent::v1::CpuRequest& request, const agent::v1::CpuResponse& answer,
                     bool online);
Result<> CheckAnswer(const agent::v1::MemoryRequest& request,
                     const agent::v1::MemoryResponse& answer, bool online);

}  // namespace wyvern::upcall
