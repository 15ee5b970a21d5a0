// Roots, volumes and devices that become disks of the guest. With the real agent and loop devices where these can be had; with an agent and a
// VMM that refuse, hang or lie otherwise.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "base/subprocess.h"
#include "sandbox/cleanup.h"
#include "sandbox/testing/fake_agent.h"
#include "sandbox/testing/sandbox_fixture.h"
#include "storage/block_source.h"
#include "storage/loop.h"

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class DisksTest : public SandboxFixture {
 protected:
  void SetUp() override {
    SandboxFixture::SetUp();
    if (dir_.empty()) {
      return;
    }
    const auto probe = LoopDevice::Attach(MakeImage("probe", ""), false);
    if (!probe.has_value()) {
      GTEST_SKIP() << probe.error().message();
    }
  }

  static Result<CommandOutput> Tool(std::vector<std::string> argv) {
    return RunCommand(SpawnOptions{std::move(argv), {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, {}, {}},
                      60000);
  }

  // An ext4 image; with the files of a directory, if there is one.
  std::string MakeImage(const std::string& name, const std::string& from) const {
    std::string path = dir_ + "/" + name;
    std::vector<std::string> argv = {"/sbin/mke2fs", "-q", "-F", "-t", "ext4"};
    if (!from.empty()) {
      argv.insert(argv.end(), {"-d", from});
    }
    argv.insert(argv.end(), {path, "24M"});
    const auto made = Tool(std::move(argv));
    EXPECT_TRUE(made.has_value() && made->status.AsShell() == 0);
    return path;
  }

  static std::string ReadFromImage(const std::string& image, const std::string& file) {
    const auto done = Tool({"/sbin/debugfs", "-R", "cat " + file, image});
    return done.has_value() ? done->out : "";
  }

  ContainerOptions OnDisk(const std::string& id, const BundleOptions& bundle,
                          const std::string& image, std::vector<std::string> options) {
    ContainerOptions container = ContainerOf(id, MakeBundle(id, bundle), false, true);
    container.rootfs = {{"ext4", image, "", std::move(options)}};
    return container;
  }

  Ran RunOn(const ContainerOptions& container) {
    auto io = sandbox_->CreateContainer(container);
    EXPECT_TRUE(io.has_value()) << io.error().message();
    if (!io.has_value()) {
      return {};
    }
    EXPECT_TRUE(sandbox_->StartProcess(container.id, "").has_value());
    Ran ran;
    ran.out = Drain(io->stdout_stream);
    const auto exit = sandbox_->Wait(container.id, "");
    ran.status = exit.has_value() ? exit->status : 999;
    const auto deleted = sandbox_->DeleteProcess(container.id, "");
    EXPECT_TRUE(deleted.has_value()) << deleted.error().message();
    return ran;
  }

  std::vector<std::string> RecordedDisks(const std::string& id) const {
    const auto record = LoadState(StateDirectory(state_dir_, "default", "box"));
    std::vector<std::string> out;
    if (record.has_value() && record->containers.contains(id)) {
      for (const DiskRecord& disk : record->containers.at(id).disks) {
        out.push_back(disk.id + " " + disk.source);
      }
    }
    return out;
  }

  static bool HasLoop(const std::string& image) {
    const auto loops = Tool({"/sbin/losetup", "-j", image});
    return loops.has_value() && !loops->out.empty();
  }
};

TEST_F(DisksTest, RootIsMountedByTheGuestAndFreeAfterwards) {
  Boot({});
  const std::string image = MakeImage("root.ext4", dir_ + "/root");
  BundleOptions options;
  options.args = {"sh", "-c", "echo kept > /kept; grep ' / ' /proc/mounts"};
  const ContainerOptions container = OnDisk("c", options, image, {"loop", "rw", "noatime"});
  auto io = sandbox_->CreateContainer(container);
  ASSERT_TRUE(io.has_value()) << io.error().message();
  EXPECT_THAT(RecordedDisks("c"), ElementsAre("c0-root " + image));
  EXPECT_TRUE(exports_->attached.empty());
  EXPECT_TRUE(MountsBelow(container.bundle)->empty());  // the host has nothing mounted
  EXPECT_FALSE(OpenBlockSource(image, false).has_value());
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  const std::string out = Drain(io->stdout_stream);
  EXPECT_THAT(out, HasSubstr("ext4"));
  EXPECT_THAT(out, HasSubstr("noatime"));
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 0U);
  ASSERT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_TRUE(exports_->disks.empty());
  EXPECT_TRUE(exports_->forced.empty());
  EXPECT_TRUE(OpenBlockSource(image, false).has_value());
  EXPECT_EQ(ReadFromImage(image, "/kept"), "kept\n");
}

TEST_F(DisksTest, RootThatTheContainerMayNotWriteGetsItsMountPoints) {
  Boot({});
  BundleOptions options;
  options.read_only_root = true;
  options.args = {"sh", "-c", "touch /x || echo refused"};
  const auto ran =
      RunOn(OnDisk("c", options, MakeImage("root.ext4", dir_ + "/root"), {"loop", "rw"}));
  EXPECT_EQ(ran.out, "refused\n");
}

TEST_F(DisksTest, ExecsSeeTheDiskWhateverPropagationTheRootHas) {
  Boot({});
  int number = 0;
  for (const char* propagation : {"private", "rslave", "rshared"}) {
    const std::string id = fmt::format("c{}", number++);
    BundleOptions options;
    options.args = {"sleep", "1000"};
    ContainerOptions container =
        OnDisk(id, options, MakeImage(id + ".ext4", dir_ + "/root"), {"loop", "rw"});
    std::string text = *ReadFile(container.bundle + "/config.json");
    const std::string before = R"("linux":{)";
    text.insert(text.find(before) + before.size(),
                fmt::format(R"("rootfsPropagation":"{}",)", propagation));
    ASSERT_TRUE(WriteFile(container.bundle + "/config.json", text).has_value());
    auto io = sandbox_->CreateContainer(container);
    ASSERT_TRUE(io.has_value()) << propagation << ": " << io.error().message();
    ASSERT_TRUE(sandbox_->StartProcess(id, "").has_value());
    IoWanted wanted;
    wanted.stdout_stream = true;
    auto exec = sandbox_->AddExec(
        id, "e",
        R"({"user":{"uid":0,"gid":0},"cwd":"/","env":["PATH=/bin"],"args":["sh","-c","echo x > /x && cat /x"]})",
        wanted);
    ASSERT_TRUE(exec.has_value()) << exec.error().message();
    ASSERT_TRUE(sandbox_->StartProcess(id, "e").has_value());
    EXPECT_EQ(Drain(exec->stdout_stream), "x\n") << propagation;
    ASSERT_TRUE(sandbox_->Signal(id, "", SIGKILL, true).has_value());
    EXPECT_EQ(sandbox_->Wait(id, "")->status, 137U);
    EXPECT_TRUE(sandbox_->DeleteProcess(id, "").has_value());
  }
  EXPECT_TRUE(exports_->forced.empty());
}

TEST_F(DisksTest, ReadOnlySnapshotIsSharedByReaders) {
  Boot({});
  const std::string image = MakeImage("root.ext4", dir_ + "/root");
  BundleOptions options;
  options.args = {"sleep", "1000"};
  ASSERT_TRUE(sandbox_->CreateContainer(OnDisk("a", options, image, {"loop", "ro"})).has_value());
  EXPECT_TRUE(exports_->disks.at("c0-root"));
  options.args = {"sh", "-c", "touch /x || echo refused"};
  EXPECT_EQ(RunOn(OnDisk("b", options, image, {"loop", "ro"})).out, "refused\n");
  ASSERT_TRUE(sandbox_->Signal("a", "", SIGKILL, true).has_value());
  EXPECT_TRUE(sandbox_->DeleteProcess("a", "").has_value());
  EXPECT_TRUE(exports_->forced.empty());
}

TEST_F(DisksTest, ConfigurationHasTheHostMountIt) {
  config_->storage.block = Config::BlockStorage::kShare;
  Boot({});
  const std::string image = MakeImage("root.ext4", dir_ + "/root");
  BundleOptions options;
  options.args = {"echo", "ran"};
  const ContainerOptions container = OnDisk("c", options, image, {"loop", "rw"});
  auto io = sandbox_->CreateContainer(container);
  ASSERT_TRUE(io.has_value()) << io.error().message();
  EXPECT_FALSE(MountsBelow(container.bundle)->empty());
  EXPECT_TRUE(exports_->disks.empty());
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_FALSE(HasLoop(image));
}

TEST_F(DisksTest, RootThatTheHostHasMountedStaysTheHosts) {
  Boot({});
  const std::string image = MakeImage("root.ext4", dir_ + "/root");
  const auto loop = LoopDevice::Attach(image, false);
  ASSERT_TRUE(loop.has_value());
  const std::string point = dir_ + "/mounted";
  std::filesystem::create_directory(point);
  ASSERT_EQ(mount(loop->path().c_str(), point.c_str(), "ext4", 0, nullptr), 0);
  BundleOptions options;
  options.args = {"echo", "ran"};
  const auto ran = RunOn(OnDisk("c", options, loop->path(), {}));
  EXPECT_EQ(ran.out, "ran\n");
  EXPECT_TRUE(exports_->forced.empty());
  EXPECT_EQ(umount2(point.c_str(), 0), 0);
}

TEST_F(DisksTest, VolumesAreImagesOfAnyKind) {
  Boot({});
  const std::string image = MakeImage("volume.ext4", "");
  BundleOptions options;
  options.mounts = fmt::format(
      R"(,{{"destination":"/data","type":"ext4","source":"{}","options":["nodev","commit=30"]}})",
      image);
  options.args = {"sh", "-c", "echo new > /data/new && grep /data /proc/mounts"};
  const auto ran = Run("c", options);
  EXPECT_THAT(ran.out, HasSubstr("nodev"));
  EXPECT_THAT(ran.out, HasSubstr("commit=30"));
  EXPECT_EQ(ReadFromImage(image, "/new"), "new\n");
  EXPECT_FALSE(HasLoop(image));
}

TEST_F(DisksTest, VolumeThatCannotBeLeavesNothing) {
  Boot({});
  const std::string image = MakeImage("root.ext4", dir_ + "/root");
  BundleOptions options;
  options.mounts = R"(,{"destination":"/data","type":"ext4","source":"/absent"})";
  const auto io = sandbox_->CreateContainer(OnDisk("c", options, image, {"loop"}));
  ASSERT_FALSE(io.has_value());
  EXPECT_EQ(io.error().code(), Code::kNotFound);
  EXPECT_THAT(io.error().message(), HasSubstr("/absent"));
  EXPECT_TRUE(exports_->disks.empty());
  EXPECT_TRUE(OpenBlockSource(image, false).has_value());
}

TEST_F(DisksTest, BlockDeviceHasTheGuestsNumberInTheContainer) {
  Boot({});
  const std::string image = dir_ + "/raw";
  ASSERT_TRUE(WriteFile(image, std::string(1 << 20, 'x')).has_value());
  const auto loop = LoopDevice::Attach(image, false);
  ASSERT_TRUE(loop.has_value());
  struct stat info = {};
  ASSERT_EQ(stat(loop->path().c_str(), &info), 0);
  const std::string bundle = MakeBundle("c", [] {
    BundleOptions options;
    options.args = {"sh", "-c", "test -b /dev/xvda && echo written > /dev/xvda && ls -l /dev/xvda"};
    return options;
  }());
  std::string text = *ReadFile(bundle + "/config.json");
  const std::string before = R"("linux":{)";
  text.insert(
      text.find(before) + before.size(),
      fmt::format(
          R"("devices":[{{"path":"/dev/xvda","type":"b","major":{0},"minor":{1},"fileMode":384}}],)"
          R"("resources":{{"devices":[{{"allow":true,"type":"b","major":{0},"minor":{1},"access":"rwm"}}]}},)",
          major(info.st_rdev), minor(info.st_rdev)));
  ASSERT_TRUE(WriteFile(bundle + "/config.json", text).has_value());
  auto io = sandbox_->CreateContainer(ContainerOf("c", bundle, false, true));
  ASSERT_TRUE(io.has_value()) << io.error().message();
  EXPECT_FALSE(OpenBlockSource(loop->path(), false).has_value());
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  const std::string out = Drain(io->stdout_stream);
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 0U) << out;
  EXPECT_THAT(
      out,
      testing::Not(HasSubstr(fmt::format("{}, {} ", major(info.st_rdev), minor(info.st_rdev)))));
  ASSERT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_TRUE(OpenBlockSource(loop->path(), false).has_value());
  EXPECT_THAT(*ReadFile(image), testing::StartsWith("written\nxxx"));
}

// An agent and a VMM that the test plays.
class HostileDisksTest : public SandboxFixture {
 protected:
  HostileDisksTest() { patience_ = {milliseconds(600), milliseconds(600), milliseconds(300)}; }

  void SetUp() override {
    SandboxFixture::SetUp();
    if (dir_.empty()) {
      return;
    }
    image_ = dir_ + "/image";
    ASSERT_TRUE(WriteFile(image_, std::string(4096, '\0')).has_value());
    config_->timeouts.agent_call = milliseconds(500);
    Backend backend;
    backend.make_machine = [this](const MachineOptions&) {
      return MakeHollowMachineWithAgent(agent_.Connector(), disks_);
    };
    backend.patience = patience_;
    auto sandbox = StartSandbox(OptionsOf(MakeBundle("box", {}), "box"), backend);
    ASSERT_TRUE(sandbox.has_value()) << sandbox.error().message();
    sandbox_ = std::move(*sandbox);
  }

  Result<ProcessIo> Create() {
    ContainerOptions container = ContainerOf("c", MakeBundle("c", {}), false, false);
    container.rootfs = {{"ext4", image_, "", {"loop", "rw"}}};
    return sandbox_->CreateContainer(container);
  }

  std::vector<std::string> Calls() {
    const std::lock_guard lock(disks_->mu);
    return disks_->calls;
  }

  bool ImageIsFree() const { return OpenBlockSource(image_, false).has_value(); }

  FakeAgent agent_;
  const std::shared_ptr<DiskWatch> disks_ = std::make_shared<DiskWatch>();
  std::string image_;
};

TEST_F(HostileDisksTest, GuestThatRefusesTheDiskIsAnErrorAndTheHostMountsNothing) {
  agent_.Refuse("AddDisk", Code::kFailedPrecondition);
  const auto io = Create();
  ASSERT_FALSE(io.has_value());
  EXPECT_THAT(io.error().message(), HasSubstr("storage.block: share"));
  EXPECT_THAT(Calls(), ElementsAre("attach c0-root", "detach c0-root"));
  EXPECT_TRUE(ImageIsFree());
  EXPECT_TRUE(MountsBelow(dir_)->empty());
}

TEST_F(HostileDisksTest, NumbersThatNoDiskHasAreRefused) {
  for (const auto& [major, minor] : {std::pair(0U, 0U), std::pair(5000U, 0U), std::pair(8U, ~0U)}) {
    agent_pb::AddDiskResponse lie;
    lie.set_major(major);
    lie.set_minor(minor);
    agent_.AnswerDisks(lie, {});
    EXPECT_FALSE(Create().has_value());
    EXPECT_TRUE(ImageIsFree());
  }
}

TEST_F(HostileDisksTest, DiskThatTheGuestStillUsesIsTakenAway) {
  agent_pb::AddDiskResponse added;
  added.set_major(254);
  agent_pb::RemoveDiskResponse removed;
  removed.set_in_use(true);
  removed.set_lost("\x1b[2J an error \n");
  agent_.AnswerDisks(added, removed);
  ASSERT_TRUE(Create().has_value());
  EXPECT_FALSE(ImageIsFree());
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_THAT(Calls(), ElementsAre("attach c0-root", "detach c0-root force"));
  EXPECT_TRUE(ImageIsFree());
}

TEST_F(HostileDisksTest, AgentThatHangsKeepsNoDisk) {
  ASSERT_TRUE(Create().has_value());
  agent_.Hang("RemoveDisk");
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_THAT(Calls(), ElementsAre("attach c0-root", "detach c0-root force"));
  EXPECT_TRUE(ImageIsFree());
}

TEST_F(HostileDisksTest, UnplugThatTheGuestRefusesIsForced) {
  ASSERT_TRUE(Create().has_value());
  disks_->refused["detach c0-root"] = Code::kFailedPrecondition;
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_THAT(Calls(), ElementsAre("attach c0-root", "detach c0-root", "detach c0-root force"));
  EXPECT_TRUE(ImageIsFree());
}

TEST_F(HostileDisksTest, NoSlotIsTypedAndLeavesNothing) {
  disks_->refused["attach c0-root"] = Code::kResourceExhausted;
  const auto io = Create();
  ASSERT_FALSE(io.has_value());
  EXPECT_EQ(io.error().code(), Code::kResourceExhausted);
  EXPECT_THAT(io.error().message(), HasSubstr("disk c0-root (" + image_ + ")"));
  EXPECT_TRUE(ImageIsFree());
}

TEST_F(HostileDisksTest, DiskThatTheVmmKeepsIsAnErrorUntilItLetsGo) {
  ASSERT_TRUE(Create().has_value());
  disks_->refused["detach c0-root"] = Code::kInternal;
  disks_->refused["detach c0-root force"] = Code::kInternal;
  EXPECT_FALSE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_FALSE(ImageIsFree());
  disks_->refused.clear();
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_TRUE(ImageIsFree());
}

TEST_F(HostileDisksTest, EndOfTheSandboxFreesDisks) {
  ASSERT_TRUE(Create().has_value());
  EXPECT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_TRUE(ImageIsFree());
}

TEST_F(HostileDisksTest, DeleteAfterADeathWaitsForTheVmm) {
  ASSERT_TRUE(Create().has_value());
  const auto record = LoadState(StateDirectory(state_dir_, "default", "box"));
  ASSERT_TRUE(record.has_value());
  ASSERT_EQ(kill(record->processes.at(0).pid, SIGKILL), 0);
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_TRUE(ImageIsFree());
}

}  // namespace
}  // namespace wyvern::runtime
