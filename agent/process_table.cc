#include "agent/process_table.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace wyvern::agent {
namespace {

constexpr size_t kMaxIdLength = 128;
constexpr uint32_t kMaxSignal = 64;  // signal(7): SIGRTMAX

int64_t RealtimeNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

bool IsValidId(const std::string& id) {
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !id.empty() && id.size() <= kMaxIdLength && alphanumeric(id.front()) &&
         std::all_of(id.begin(), id.end(),
                     [&](char c) { return alphanumeric(c) || c == '_' || c == '.' || c == '-'; });
}

Result<std::shared_ptr<ProcessTable::Process>> ProcessTable::Find(
    const std::string& exec_id) const {
  const auto it = execs_.find(exec_id);
  if (it == execs_.end()) {
    return Fail(Code::kNotFound, "process " + exec_id + " of " + name_ + " not found");
  }
  return it->second;
}

Result<> ProcessTable::CheckNew(const std::string& exec_id) const {
  if (!IsValidId(exec_id)) {
    return Fail(Code::kInvalidArgument, "bad process id");
  }
  if (execs_.contains(exec_id)) {
    return Fail(Code::kAlreadyExists, "process " + exec_id + " of " + name_ + " exists");
  }
  return {};
}

Result<std::shared_ptr<ProcessTable::Process>> ProcessTable::FindToSignal(
    const std::string& exec_id, uint32_t signal) const {
  WV_TRY(auto process, Find(exec_id));
  if (signal > kMaxSignal) {
    return Fail(Code::kInvalidArgument, "no such signal: " + std::to_string(signal));
  }
  if (process->state == State::kExited) {
    return Fail(Code::kNotFound, "the process has finished");
  }
  if (process->pid == 0) {
    return Fail(Code::kFailedPrecondition, "the process was not started");
  }
  return process;
}

void ProcessTable::Exited(Process& process, uint32_t status) {
  process.state = State::kExited;
  process.exit.set_exit_status(status);
  process.exit.set_exited_at_ns(RealtimeNs());
  for (const WaitResponder& waiter : std::exchange(process.waiters, {})) {
    waiter.Ok(process.exit);
  }
}

void ProcessTable::Wait(const std::string& exec_id, WaitResponder responder) {
  auto found = Find(exec_id);
  if (!found) {
    responder.Fail(std::move(found).error());
    return;
  }
  Process& process = **found;
  if (process.state == State::kExited) {
    responder.Ok(process.exit);
    return;
  }
  // Clients that went away do not pile up.
  std::erase_if(process.waiters, [](const WaitResponder& waiter) { return !waiter.alive(); });
  process.waiters.push_back(std::move(responder));
}

Result<> ProcessTable::Resize(const std::string& exec_id, uint32_t rows, uint32_t columns) {
  WV_TRY(const auto process, Find(exec_id));
  return process->io ? process->io->Resize(rows, columns) : Result<>();
}

Result<> ProcessTable::CloseStdin(const std::string& exec_id) {
  WV_TRY(const auto process, Find(exec_id));
  if (process->io) {
    process->io->CloseStdin();
  }
  return {};
}

Result<v1::WaitProcessResponse> ProcessTable::DeleteExec(const std::string& exec_id) {
  WV_TRY(const auto process, Find(exec_id));
  if (process->state == State::kStarting || process->state == State::kRunning) {
    return Fail(Code::kFailedPrecondition, "process " + exec_id + " is running");
  }
  if (process->state == State::kCreated) {
    if (!process->process_file.empty()) {
      (void)unlink(process->process_file.c_str());
    }
    Exited(*process, 0);  // never ran: who waits is let go
  }
  process->io.reset();
  execs_.erase(exec_id);
  return process->exit;
}

}  // namespace wyvern::agent
