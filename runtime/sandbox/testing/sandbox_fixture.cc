#include "sandbox/testing/sandbox_fixture.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>

#include "storage/rootfs.h"

namespace wyvern::runtime {

namespace fs = std::filesystem;

namespace {

constexpr const char* kCgroupRoot = "/sys/fs/cgroup";

void MakeRoot(const std::string& root) {
  for (const char* name : {"bin", "proc", "dev", "sys", "tmp", "etc"}) {
    fs::create_directories(root + "/" + name);
  }
  fs::copy_file("/bin/busybox", root + "/bin/busybox");
  for (const char* name : {"sh", "sleep", "cat", "echo", "true", "false", "touch", "ls", "test",
                           "readlink", "df", "cut", "kill", "grep", "head", "wc"}) {
    fs::create_symlink("busybox", root + "/bin/" + name);
  }
}

std::string Quoted(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) {
    out += out.empty() ? "\"" : ",\"";
    for (const char c : word) {
      out += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
    }
    out += '"';
  }
  return out;
}

}  // namespace

void SandboxFixture::SetUp() {
  if (!WhyNoNativeMachines().empty()) {
    GTEST_SKIP() << WhyNoNativeMachines();
  }
  std::string name = "/run/wyvern/test-XXXXXX";
  dir_ = mkdtemp(name.data());
  state_dir_ = dir_ + "/state";
  MakeRoot(dir_ + "/root");
  config_ = std::make_shared<Config>(BuiltInConfig());
  config_->guest.debug_exec = true;
  config_->state_dir = state_dir_;
  config_->cgroup_root = kCgroupRoot;
  config_->paths.anchor = WYVERN_ANCHOR_BINARY;
  config_->timeouts.boot = std::chrono::seconds(20);
}

void SandboxFixture::TearDown() {
  if (sandbox_ != nullptr) {
    const auto ended = sandbox_->Shutdown();
    EXPECT_TRUE(ended.has_value()) << ended.error().message();
    sandbox_.reset();
    EXPECT_EQ(LeftBehind(), "");
  }
  if (!dir_.empty()) {
    static_cast<void>(UnmountTree(dir_));
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
  }
}

std::string SandboxFixture::MakeBundle(const std::string& id, const BundleOptions& options) {
  std::string bundle = dir_ + "/bundle-" + id;
  fs::create_directories(bundle + "/rootfs");
  const std::string cgroup = options.cgroups_path.empty()
                                 ? fmt::format("/wyvern-host-{}/{}", getpid(), id)
                                 : options.cgroups_path;
  const std::string annotations =
      options.annotations.empty() ? "" : R"("annotations":)" + options.annotations + ",";
  const std::string hooks = options.hooks.empty() ? "" : R"("hooks":)" + options.hooks + ",";
  const std::string resources =
      options.resources.empty() ? "" : R"("resources":)" + options.resources + ",";
  const std::string text =
      R"({"ociVersion":"1.1.0","process":{"user":{"uid":0,"gid":0},"cwd":"/","env":["PATH=/bin"],"args":[)" +
      Quoted(options.args) + "]" + options.process + R"(},"root":{"path":")" + dir_ +
      R"(/root","readonly":)" + (options.read_only_root ? "true" : "false") +
      R"(},"hostname":"box",)" + hooks + annotations +
      R"("mounts":[{"destination":"/proc","type":"proc","source":"proc"},)"
      R"({"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755"]},)"
      R"({"destination":"/dev/pts","type":"devpts","source":"devpts","options":["newinstance","ptmxmode=0666","mode=0620"]})" +
      options.mounts + R"(],"linux":{)" + resources + R"("cgroupsPath":")" + cgroup +
      R"(","namespaces":[)" + options.namespaces + options.network + "]}}";
  EXPECT_TRUE(WriteFile(bundle + "/config.json", text).has_value());
  return bundle;
}

SandboxOptions SandboxFixture::OptionsOf(const std::string& bundle, const std::string& id) const {
  SandboxOptions options;
  options.id = id;
  options.bundle = bundle;
  options.config = config_;
  return options;
}

Result<std::unique_ptr<Sandbox>> SandboxFixture::StartSandboxOf(const std::string& bundle,
                                                                const std::string& id) {
  Backend backend;
  backend.make_machine = [watch = exports_](const MachineOptions&) {
    return MakeWatchedNativeMachine(watch);
  };
  backend.patience = patience_;
  return StartSandbox(OptionsOf(bundle, id), backend);
}

void SandboxFixture::Boot(const BundleOptions& options) {
  auto sandbox = StartSandboxOf(MakeBundle("box", options));
  ASSERT_TRUE(sandbox.has_value()) << sandbox.error().message();
  sandbox_ = std::move(*sandbox);
}

ContainerOptions SandboxFixture::ContainerOf(const std::string& id, const std::string& bundle,
                                             bool in, bool out) const {
  ContainerOptions options;
  options.id = id;
  options.bundle = bundle;
  options.io.stdin_stream = in;
  options.io.stdout_stream = out;
  return options;
}

SandboxFixture::Ran SandboxFixture::Run(const std::string& id, const BundleOptions& options) {
  auto io = sandbox_->CreateContainer(ContainerOf(id, MakeBundle(id, options), false, true));
  EXPECT_TRUE(io.has_value()) << io.error().message();
  if (!io.has_value()) {
    return {};
  }
  const auto started = sandbox_->StartProcess(id, "");
  EXPECT_TRUE(started.has_value()) << started.error().message();
  Ran ran;
  ran.out = Drain(io->stdout_stream);
  const auto exit = sandbox_->Wait(id, "");
  EXPECT_TRUE(exit.has_value());
  ran.status = exit.has_value() ? exit->status : 999;
  const auto deleted = sandbox_->DeleteProcess(id, "");
  EXPECT_TRUE(deleted.has_value()) << deleted.error().message();
  return ran;
}

std::string SandboxFixture::Drain(const UniqueFd& fd) {
  std::string text;
  std::vector<std::byte> buffer(65536);
  pollfd wait = {fd.get(), POLLIN, 0};
  while (poll(&wait, 1, 30000) == 1) {
    const auto count = ReadSome(fd, buffer);
    if (!count.has_value() || *count == 0) {
      return text;
    }
    text.append(reinterpret_cast<const char*>(buffer.data()), *count);
  }
  ADD_FAILURE() << "the stream does not end";
  return text;
}

std::string SandboxFixture::LeftBehind() const {
  std::string left;
  const auto mounts = MountsBelow(dir_);
  for (const std::string& mount : mounts.value_or(std::vector<std::string>())) {
    left += "mount " + mount + "\n";
  }
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(state_dir_, error)) {
    left += "state " + entry.path().string() + "\n";
  }
  for (const auto& entry : fs::directory_iterator("/run/wyvern/share")) {
    left += "export " + entry.path().string() + "\n";
  }
  const std::string cgroup = fmt::format("{}/wyvern-host-{}", kCgroupRoot, getpid());
  if (fs::exists(cgroup)) {
    left += "cgroup " + cgroup + "\n";
  }
  return left;
}

}  // namespace wyvern::runtime
