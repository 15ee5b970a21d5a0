// agent/testing/agent_process.h — a real wyvern-agent with a real crun on this machine, and a client for it.
// Needs:   root, crun, a static busybox, cgroup v2 (one without controllers will do; where the machine has v1, a v2 hierarchy is
//          mounted over it in a mount namespace of the test's own).
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/fd.h"
#include "base/subprocess.h"
#include "proto/agent.pb.h"
#include "ttrpc/client.h"

namespace wyvern::agent {

using namespace std::chrono_literals;

// Why integration tests cannot run here; empty: they can. Enters the mount namespace of the tests the first time.
const std::string& WhyNotHere();

template <typename T>
Code CodeOf(const Result<T>& result) {
  return result ? Code::kOk : result.error().code();
}

struct Stdio {
  v1::Stdio proto;
  UniqueFd in;
  UniqueFd out;
  UniqueFd err;
};

struct ContainerConfig {
  std::vector<std::string> args = {"sleep", "1000"};
  bool terminal = false;
  bool own_pid_namespace = true;
  std::string pid_namespace_path;   // to join
  uint64_t memory_limit = 0;        // bytes; 0: none
  std::string user_namespace_path;  // to join
  std::string ipc_namespace_path;   // the same
};

class AgentProcess {
 public:
  static constexpr char kService[] = "wyvern.agent.v1.Agent";

  // `options`: more of its command line. Aborts the test program when the agent does not come up.
  explicit AgentProcess(const std::vector<std::string>& options = {});
  ~AgentProcess();
  AgentProcess(const AgentProcess&) = delete;
  AgentProcess& operator=(const AgentProcess&) = delete;

  template <typename Resp, typename Req>
  Result<Resp> Call(const std::string& method, const Req& request,
                    std::chrono::milliseconds timeout = 60s) {
    return client_->Call<Req, Resp>(kService, method, request, {.timeout = timeout});
  }

  // Connected streams for what is wanted: "i", "o", "e" and "t" (terminal).
  Stdio MakeStdio(const std::string& wanted);
  Result<uint32_t> Create(const std::string& id, const ContainerConfig& config, const Stdio& stdio);
  Result<> Exec(const std::string& id, const std::string& exec_id,
                const std::vector<std::string>& args, const Stdio& stdio);
  Result<uint32_t> Start(const std::string& id, const std::string& exec_id = "");
  // The exit status, or the negated code of the error.
  int Wait(const std::string& id, const std::string& exec_id = "");
  Result<> Signal(const std::string& id, const std::string& exec_id, int signal, bool all = false);
  Result<> Delete(const std::string& id, const std::string& exec_id = "");
  // Create, Start, Wait, Delete; output in *out.
  int Run(const std::string& id, const std::vector<std::string>& args, std::string* out = nullptr,
          std::string* err = nullptr);
  int RunExec(const std::string& id, const std::string& exec_id,
              const std::vector<std::string>& args, std::string* out = nullptr);

  UniqueFd ConnectStdio();

  const std::string& dir() const { return dir_; }

  ttrpc::Client& client() { return *client_; }

  pid_t pid() const {
    WV_CHECK(agent_.has_value());
    return agent_->pid();
  }

  size_t OpenFds() const;

 private:
  std::string dir_;
  std::optional<Subprocess> agent_;
  std::unique_ptr<ttrpc::Client> client_;
};

v1::ProcessRef Ref(const std::string& id, const std::string& exec_id = "");
v1::ContainerRef ContainerRefOf(const std::string& id);
// Reads to the end of the stream, for at most a minute.
std::string Drain(FdRef fd);
std::string ReadUntil(FdRef fd, const std::string& text);

}  // namespace wyvern::agent
