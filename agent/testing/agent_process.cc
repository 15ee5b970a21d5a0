#include "agent/testing/agent_process.h"

#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/unix_socket.h"

namespace wyvern::agent {
namespace {

namespace fs = std::filesystem;

constexpr char kBusybox[] = "/bin/busybox";

std::string Prepare() {
  signal(SIGPIPE, SIG_IGN);  // the tests write to streams that end
  if (geteuid() != 0) {
    return "not root";
  }
  if (access("/usr/bin/crun", X_OK) != 0) {
    return "no /usr/bin/crun";
  }
  if (access(kBusybox, X_OK) != 0) {
    return "no /bin/busybox (busybox-static)";
  }
  if (unshare(CLONE_NEWNS) != 0 ||
      mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return "no mount namespace for the tests";
  }

  struct statfs status {};

  if (statfs("/sys/fs/cgroup", &status) != 0) {
    return "no /sys/fs/cgroup";
  }
  if (status.f_type != CGROUP2_SUPER_MAGIC &&
      mount("none", "/sys/fs/cgroup", "cgroup2", 0, nullptr) != 0) {
    return "no cgroup v2";
  }
  if (prctl(PR_CAPBSET_READ, CAP_SYS_RESOURCE) == 0) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): before there are threads.
    setenv("WYVERN_TEST_CRUN_PRELOAD", WYVERN_MEMLOCK_PRELOAD, 1);
  }
  return {};
}

void MakeRootfs(const std::string& root) {
  for (const char* name : {"bin", "proc", "dev", "sys", "tmp", "etc"}) {
    fs::create_directories(root + "/" + name);
  }
  fs::copy_file(kBusybox, root + "/bin/busybox");
  for (const char* name :
       {"sh", "sleep", "cat", "echo", "true", "false", "seq", "ps", "kill", "stty", "sha256sum",
        "dd", "printf", "id", "head", "tail", "wc", "yes"}) {
    fs::create_symlink("busybox", root + "/bin/" + name);
  }
  fs::copy_file(kBusybox, root + "/bin/notexec");
  fs::permissions(root + "/bin/notexec", fs::perms::owner_read);
}

std::string JsonStrings(const std::vector<std::string>& strings) {
  std::string json = "[";
  for (const std::string& text : strings) {
    json += json.size() > 1 ? ",\"" : "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') {
        json += '\\';
      }
      json += c;
    }
    json += "\"";
  }
  return json + "]";
}

std::string ProcessJson(const std::vector<std::string>& args, bool terminal) {
  return std::string("{\"terminal\":") + (terminal ? "true" : "false") +
         ",\"user\":{\"uid\":0,\"gid\":0},\"cwd\":\"/\",\"env\":[\"PATH=/"
         "bin\",\"TERM=xterm\"],\"args\":" +
         JsonStrings(args) + "}";
}

std::string ConfigJson(const std::string& id, const std::string& root,
                       const ContainerConfig& config) {
  std::string namespaces = R"({"type":"mount"},{"type":"uts"},{"type":"network"})";
  if (config.ipc_namespace_path.empty()) {
    namespaces += R"(,{"type":"ipc"})";
  }
  const std::string resources = config.memory_limit == 0
                                    ? ""
                                    : R"("resources":{"memory":{"limit":)" +
                                          std::to_string(config.memory_limit) + R"(,"swap":)" +
                                          std::to_string(config.memory_limit) + "}},";
  for (const auto& [type, path] : {std::pair("user", config.user_namespace_path),
                                   std::pair("ipc", config.ipc_namespace_path)}) {
    if (!path.empty()) {
      namespaces += R"(,{"type":")" + std::string(type) + R"(","path":")" + path + "\"}";
    }
  }
  if (!config.pid_namespace_path.empty()) {
    namespaces += R"(,{"type":"pid","path":")" + config.pid_namespace_path + "\"}";
  } else if (config.own_pid_namespace) {
    namespaces += R"(,{"type":"pid"})";
  }
  return R"({"ociVersion":"1.0.2","process":)" + ProcessJson(config.args, config.terminal) +
         R"(,"root":{"path":")" + root + R"("},"hostname":"t","mounts":[)" +
         R"({"destination":"/proc","type":"proc","source":"proc"},)" +
         R"({"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755"]},)" +
         R"({"destination":"/dev/pts","type":"devpts","source":"devpts","options":["newinstance","ptmxmode=0666","mode=0620"]}],)" +
         R"("linux":{"cgroupsPath":"/wyvern-test/)" + id + R"(",)" + resources +
         R"("namespaces":[)" + namespaces + "]}}";
}

template <typename T>
Result<> Drop(Result<T> result) {
  if (!result) {
    return tl::unexpected(std::move(result).error());
  }
  return {};
}

}  // namespace

const std::string& WhyNotHere() {
  static const std::string why = Prepare();
  return why;
}

AgentProcess::AgentProcess(const std::vector<std::string>& options) {
  std::string name = "/tmp/wyvern-agent-test-XXXXXX";
  dir_ = mkdtemp(name.data());
  (void)chmod(dir_.c_str(), 0711);  // as /run/wyvern: users of mapped ids come through it
  MakeRootfs(dir_ + "/rootfs");
  SpawnOptions spawn;
  // NOLINTBEGIN(concurrency-mt-unsafe): nobody changes the environment once there are threads.
  // Elsewhere than where it was built, the tests are told where the agent is.
  const char* elsewhere = getenv("WYVERN_TEST_AGENT");
  spawn.argv = {elsewhere != nullptr ? elsewhere : WYVERN_AGENT_BINARY, "--test-unix", dir_};
  spawn.argv.insert(spawn.argv.end(), options.begin(), options.end());
  const char* preload = getenv("WYVERN_TEST_CRUN_PRELOAD");
  // NOLINTEND(concurrency-mt-unsafe)
  if (preload != nullptr) {
    spawn.env = {std::string("WYVERN_TEST_CRUN_PRELOAD=") + preload};
  }
  spawn.fds = {{2, FdRef(2)}};
  auto agent = Subprocess::Spawn(spawn);
  if (!agent) {
    std::abort();
  }
  agent_ = *std::move(agent);
  for (int i = 0; i < 500; ++i) {
    auto socket = ConnectUnix(dir_ + "/api.sock");
    if (socket) {
      auto client = ttrpc::Client::Create(*std::move(socket));
      client_ = client ? *std::move(client) : nullptr;
      return;
    }
    std::this_thread::sleep_for(10ms);
  }
  std::abort();
}

AgentProcess::~AgentProcess() {
  WV_CHECK(agent_.has_value());
  EXPECT_TRUE(agent_->Kill(SIGTERM).has_value());
  const auto status = agent_->Wait();
  EXPECT_TRUE(status && status->AsShell() == 0) << "the agent did not end well";
  std::error_code ignored;
  (void)umount2((dir_ + "/pod/shm").c_str(), MNT_DETACH);  // a guest's goes with it
  fs::remove_all(dir_, ignored);
}

UniqueFd AgentProcess::ConnectStdio() {
  auto fd = ConnectUnix(dir_ + "/stdio.sock");
  EXPECT_TRUE(fd.has_value());
  return fd ? *std::move(fd) : UniqueFd();
}

Stdio AgentProcess::MakeStdio(const std::string& wanted) {
  Stdio stdio;
  stdio.proto.set_terminal(wanted.find('t') != std::string::npos);
  const auto stream = [&](char letter, std::string* token, UniqueFd* fd) {
    if (wanted.find(letter) == std::string::npos) {
      return;
    }
    token->resize(32);
    EXPECT_EQ(getrandom(token->data(), token->size(), 0), 32);
    *fd = ConnectStdio();
    EXPECT_TRUE(WriteAll(*fd, *token).has_value());
  };
  stream('i', stdio.proto.mutable_stdin_token(), &stdio.in);
  stream('o', stdio.proto.mutable_stdout_token(), &stdio.out);
  stream('e', stdio.proto.mutable_stderr_token(), &stdio.err);
  return stdio;
}

Result<uint32_t> AgentProcess::Create(const std::string& id, const ContainerConfig& config,
                                      const Stdio& stdio) {
  v1::CreateContainerRequest request;
  request.set_id(id);
  request.set_config_json(ConfigJson(id, dir_ + "/rootfs", config));
  *request.mutable_stdio() = stdio.proto;
  WV_TRY(const auto response, Call<v1::CreateContainerResponse>("CreateContainer", request));
  return response.guest_pid();
}

Result<> AgentProcess::Exec(const std::string& id, const std::string& exec_id,
                            const std::vector<std::string>& args, const Stdio& stdio) {
  v1::AddProcessRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  request.set_process_json(ProcessJson(args, stdio.proto.terminal()));
  *request.mutable_stdio() = stdio.proto;
  return Drop(Call<v1::Empty>("AddProcess", request));
}

Result<uint32_t> AgentProcess::Start(const std::string& id, const std::string& exec_id) {
  WV_TRY(const auto response, Call<v1::StartProcessResponse>("StartProcess", Ref(id, exec_id)));
  return response.guest_pid();
}

int AgentProcess::Wait(const std::string& id, const std::string& exec_id) {
  const auto response = Call<v1::WaitProcessResponse>("WaitProcess", Ref(id, exec_id));
  if (!response) {
    return -static_cast<int>(response.error().code());
  }
  EXPECT_GT(response->exited_at_ns(), 0);
  return static_cast<int>(response->exit_status());
}

Result<> AgentProcess::Signal(const std::string& id, const std::string& exec_id, int signal,
                              bool all) {
  v1::SignalRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  request.set_signal(static_cast<uint32_t>(signal));
  request.set_all(all);
  return Drop(Call<v1::Empty>("SignalProcess", request));
}

Result<> AgentProcess::Delete(const std::string& id, const std::string& exec_id) {
  return Drop(Call<v1::WaitProcessResponse>("DeleteProcess", Ref(id, exec_id)));
}

int AgentProcess::Run(const std::string& id, const std::vector<std::string>& args, std::string* out,
                      std::string* err) {
  const Stdio stdio =
      MakeStdio(std::string(out != nullptr ? "o" : "") + (err != nullptr ? "e" : ""));
  ContainerConfig config;
  config.args = args;
  const auto created = Create(id, config, stdio);
  EXPECT_TRUE(created.has_value()) << created.error().message();
  EXPECT_TRUE(Start(id).has_value());
  if (out != nullptr) {
    *out = Drain(stdio.out);
  }
  if (err != nullptr) {
    *err = Drain(stdio.err);
  }
  const int status = Wait(id);
  const auto deleted = Delete(id);
  EXPECT_TRUE(deleted.has_value()) << deleted.error().message();
  return status;
}

int AgentProcess::RunExec(const std::string& id, const std::string& exec_id,
                          const std::vector<std::string>& args, std::string* out) {
  const Stdio stdio = MakeStdio(out != nullptr ? "o" : "");
  EXPECT_TRUE(Exec(id, exec_id, args, stdio).has_value());
  const auto started = Start(id, exec_id);
  EXPECT_TRUE(started.has_value()) << started.error().message();
  const int status = Wait(id, exec_id);
  if (out != nullptr) {
    *out = Drain(stdio.out);
  }
  EXPECT_TRUE(Delete(id, exec_id).has_value());
  return status;
}

size_t AgentProcess::OpenFds() const {
  const fs::directory_iterator entries("/proc/" + std::to_string(pid()) + "/fd");
  return static_cast<size_t>(std::distance(fs::begin(entries), fs::end(entries)));
}

v1::ProcessRef Ref(const std::string& id, const std::string& exec_id) {
  v1::ProcessRef ref;
  ref.set_id(id);
  ref.set_exec_id(exec_id);
  return ref;
}

v1::ContainerRef ContainerRefOf(const std::string& id) {
  v1::ContainerRef ref;
  ref.set_id(id);
  return ref;
}

std::string Drain(FdRef fd) {
  std::string text;
  std::vector<std::byte> buffer(65536);
  pollfd wait{fd.get(), POLLIN, 0};
  while (poll(&wait, 1, 60'000) == 1) {
    const auto count = ReadSome(fd, buffer);
    if (!count || *count == 0) {
      return text;
    }
    text.append(reinterpret_cast<const char*>(buffer.data()), *count);
  }
  ADD_FAILURE() << "the stream does not end";
  return text;
}

std::string ReadUntil(FdRef fd, const std::string& wanted) {
  std::string text;
  std::vector<std::byte> buffer(4096);
  pollfd wait{fd.get(), POLLIN, 0};
  while (text.find(wanted) == std::string::npos) {
    if (poll(&wait, 1, 10'000) != 1) {
      ADD_FAILURE() << "no \"" << wanted << "\" in \"" << text << "\"";
      return text;
    }
    const auto count = ReadSome(fd, buffer);
    if (!count || *count == 0) {
      ADD_FAILURE() << "ended before \"" << wanted << "\": \"" << text << "\"";
      return text;
    }
    text.append(reinterpret_cast<const char*>(buffer.data()), *count);
  }
  return text;
}

}  // namespace wyvern::agent
