// The machine behind the API with kernels of a few instructions.
#include "vmm/assembly.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "base/unix_socket.h"
#include "jail/filter.h"
#include "jail/violation.h"
#include "loader/testing/elf_builder.h"
#include "mem/file_window.h"

namespace wyvern::vmm {
namespace {

UniqueFd Reopened(FdRef file, int flags) {
  return *Open("/proc/self/fd/" + std::to_string(file.get()), flags);
}

UniqueFd ReadOnly(FdRef file) {
  return Reopened(file, O_RDONLY);
}

class AssemblyTest : public testing::Test {
 protected:
  void SetUp() override {
    if (access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no usable /dev/kvm on this host";
    }
    // The machine's threads confine themselves.
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    const loader::testing::TestElf elf;  // of hlt alone
    api::MachineSpec spec;
    spec.memory_bytes = 64 << 20U;
    spec.hotplug_memory_bytes = 64 << 20U;
    spec.kvm = *Open("/dev/kvm", O_RDWR);
    spec.kernel = *MakeMemfd("kernel", 0);
    ASSERT_TRUE(WriteAll(spec.kernel, elf.Build()).has_value());
    spec.vcpus = kVcpus;
    spec.max_vcpus = kVcpus + 2;
    const auto created = assembly_.Create(std::move(spec));
    ASSERT_TRUE(created.has_value()) << created.error().message();
    assembly_.SetEventListener([this](api::MachineEvent event) {
      if (api::IsNews(event.kind)) {
        news_.push_back(std::move(event));
      }
    });
  }

  Result<api::AttachedDevice> Attach(const std::string& id, api::DeviceSpec spec) {
    return assembly_.Attach(id, std::move(spec), std::chrono::milliseconds(500));
  }

  Code Detach(const std::string& id, bool force = false) {
    const auto detached =
        assembly_.Detach({.id = id, .force = force, .patience = std::chrono::milliseconds(500)});
    return detached ? Code::kOk : detached.error().code();
  }

  static api::BlkSpec Disk(uint64_t size = 1 << 20U) {
    return {.file = *MakeMemfd("disk", size), .read_only = false, .serial = "disk"};
  }

  static size_t OpenFds() {
    const auto all = std::filesystem::directory_iterator("/proc/self/fd");
    return static_cast<size_t>(std::distance(begin(all), end(all)));
  }

  static constexpr uint32_t kVcpus = 2;
  std::vector<api::MachineEvent> news_;  // by calls of the test's own thread
  Assembly assembly_;
};

TEST_F(AssemblyTest, VsockDeviceThatDoesNotFitIsNotTheMachines) {
  int fitting = 0;
  while (fitting < 100 && Attach("rng" + std::to_string(fitting), api::RngSpec{})) {
    ++fitting;
  }
  ASSERT_LT(fitting, 100);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto attached = Attach("vsock", api::VsockSpec{.guest_cid = 3});
    ASSERT_FALSE(attached.has_value());
    EXPECT_EQ(attached.error().code(), Code::kResourceExhausted) << attached.error().message();
  }
  ASSERT_TRUE(assembly_.Boot().has_value());
  SocketPair pair = *MakeSocketPair(SOCK_STREAM);
  const auto connected = assembly_.ConnectVsock(1024, std::move(pair.first));
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code(), Code::kFailedPrecondition);
}

TEST_F(AssemblyTest, DevicesGoBeforeBootWithAllThatWasTheirs) {
  ASSERT_TRUE(Attach("first", api::RngSpec{}));
  const size_t fds = OpenFds();
  for (int round = 0; round < 20; ++round) {
    api::PmemSpec images;
    images.images.push_back(ReadOnly(*MakeMemfd("image", 4096)));
    const auto disk = Attach("disk", Disk());
    ASSERT_TRUE(disk) << disk.error().message();
    EXPECT_EQ(disk->pci_address, "0000:00:02.0") << "the slot is free again";
    const auto pmem = Attach("images", std::move(images));
    ASSERT_TRUE(pmem) << pmem.error().message();
    EXPECT_EQ(Attach("disk", Disk()).error().code(), Code::kAlreadyExists);
    EXPECT_EQ(Detach("disk"), Code::kOk);
    EXPECT_EQ(Detach("images"), Code::kOk);
    EXPECT_EQ(Detach("disk"), Code::kNotFound);
  }
  EXPECT_EQ(OpenFds(), fds) << "not fewer, either: a disk gives its ring back";
}

// The guest halts at once: nobody answers on the vsock device.
TEST_F(AssemblyTest, DeviceThatTheGuestDoesNotTakeUpIsGoneAgain) {
  ASSERT_TRUE(Attach("vsock", api::VsockSpec{.guest_cid = 3}));
  ASSERT_TRUE(assembly_.Boot());
  const size_t fds = OpenFds();
  for (int round = 0; round < 2; ++round) {
    const auto disk = Attach("disk", Disk());
    ASSERT_FALSE(disk);
    EXPECT_EQ(disk.error().code(), Code::kDeadlineExceeded) << disk.error().message();
    EXPECT_EQ(Detach("disk"), Code::kNotFound);
  }
  ASSERT_EQ(news_.size(), 2U);
  EXPECT_EQ(news_[0].kind, api::EventKind::kHotplugFailed);
  EXPECT_TRUE(news_[0].text.starts_with("attach disk: ")) << news_[0].text;
  EXPECT_LE(OpenFds(), fds + 2) << "but for what waits in the vsock device for the guest's driver";
  const auto metrics = assembly_.Metrics().counters;
  EXPECT_EQ(metrics.at("upcall.pci_rescan.failures.deadline_exceeded"), 1U);
  // The roll-back of the first; the second is not tried before the guest has answered that.
  EXPECT_EQ(metrics.at("upcall.pci_remove.failures.deadline_exceeded"), 2U);
  EXPECT_EQ(metrics.at("hotplug.rolled_back"), 1U);
  EXPECT_EQ(metrics.at("hotplug.unsettled_addresses"), 1U);
  EXPECT_EQ(Detach("vsock"), Code::kFailedPrecondition) << "the agent is asked over it";
  EXPECT_EQ(Detach("vsock", true), Code::kOk);
}

TEST_F(AssemblyTest, DeviceGoesWithoutTheGuestsConsentByForceOnly) {
  ASSERT_TRUE(Attach("vsock", api::VsockSpec{.guest_cid = 3}));
  ASSERT_TRUE(Attach("disk", Disk()));
  ASSERT_TRUE(assembly_.Boot());
  EXPECT_EQ(Detach("disk"), Code::kDeadlineExceeded);
  EXPECT_EQ(Attach("disk", Disk()).error().code(), Code::kAlreadyExists) << "it is still there";
  EXPECT_EQ(Detach("disk", true), Code::kOk);
  EXPECT_EQ(Detach("disk", true), Code::kNotFound);
}

TEST_F(AssemblyTest, WithoutAnAgentNothingComesAfterBoot) {
  ASSERT_TRUE(assembly_.Boot());
  const auto disk = Attach("disk", Disk());
  ASSERT_FALSE(disk);
  EXPECT_EQ(disk.error().code(), Code::kFailedPrecondition) << disk.error().message();
}

api::ConsoleSpec Ports(std::initializer_list<std::string> names) {
  api::ConsoleSpec spec;
  for (const std::string& name : names) {
    spec.ports.push_back({name, UniqueFd()});
    if (name != "wyvern.upcall") {
      spec.ports.back().socket = std::move(MakeSocketPair(SOCK_STREAM)->first);
    }
  }
  return spec;
}

TEST_F(AssemblyTest, EveryKindComesAndGoes) {
  const size_t fds = OpenFds();
  EXPECT_TRUE(Attach("balloon", api::BalloonSpec{true, true}));
  EXPECT_TRUE(Attach("console", Ports({"a", "wyvern.upcall", "b"})));
  const auto mem = Attach("mem", api::MemSpec{});
  EXPECT_TRUE(mem) << mem.error().message();
  const auto other = Attach("other", Ports({"wyvern.upcall"}));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code(), Code::kFailedPrecondition) << "there is one such port";
  api::NetSpec net{.taps = {}, .mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500, .queue_size = 256};
  net.taps.push_back(*Open("/dev/null", O_RDWR));
  EXPECT_EQ(Attach("net", std::move(net)).error().code(), Code::kInvalidArgument) << "no tap";
  for (const char* id : {"balloon", "console", "mem"}) {
    EXPECT_EQ(Detach(id), Code::kOk) << id;
  }
  EXPECT_TRUE(Attach("mem", api::MemSpec{})) << "as often as one likes";
  EXPECT_EQ(Detach("mem"), Code::kOk);
  EXPECT_LE(OpenFds(), fds + 1) << "but for the memory that can be plugged, which is the machine's";
}

TEST_F(AssemblyTest, WithoutVsockTheAgentIsAskedOverTheConsolePort) {
  ASSERT_TRUE(Attach("console", Ports({"a", "wyvern.upcall"})));
  ASSERT_TRUE(assembly_.Boot());
  // The guest halts at once: the preamble finds nobody.
  EXPECT_EQ(Attach("disk", Disk()).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(assembly_.Metrics().counters.at("hotplug.rolled_back"), 1U);
  EXPECT_GE(assembly_.Metrics().counters.at("upcall.streams"), 2U);
  EXPECT_EQ(Detach("console"), Code::kFailedPrecondition) << "there is no other way";
}

TEST_F(AssemblyTest, MemoryIsResizedWithinItsBoundsAndTellsHowFarItCame) {
  const auto resize = [&](uint64_t mib) {
    return assembly_.ResizeMemory(mib << 20U, std::chrono::milliseconds(200));
  };
  EXPECT_EQ(resize(64).error().code(), Code::kFailedPrecondition) << "it does not run";
  ASSERT_TRUE(Attach("vsock", api::VsockSpec{.guest_cid = 3}));
  ASSERT_TRUE(Attach("mem", api::MemSpec{}));
  ASSERT_TRUE(assembly_.Boot());
  for (const uint64_t mib : {0U, 62U, 130U}) {
    EXPECT_EQ(resize(mib).error().code(), Code::kInvalidArgument) << mib;
  }
  EXPECT_TRUE(resize(65)->why.starts_with("the guest has plugged 0 of 2 MiB")) << "a whole block";
  // The guest halts at once: its driver plugs nothing.
  const auto resized = resize(128);
  ASSERT_TRUE(resized) << resized.error().message();
  EXPECT_EQ(resized->memory_bytes, 64U << 20U);
  EXPECT_TRUE(resized->why.starts_with("the guest has plugged 0 of 64 MiB: MemoryOnline: "))
      << resized->why;
  const auto devices = assembly_.Metrics().devices;
  const auto mem = std::ranges::find(devices, "mem", &api::DeviceMetrics::id);
  ASSERT_NE(mem, devices.end());
  EXPECT_EQ(mem->kind, "mem");
  EXPECT_EQ(mem->counters.at("requested_bytes"), 0U) << "it is asked for no more";
  ASSERT_EQ(news_.size(), 2U) << "what the caller did wrong is no news";
  EXPECT_EQ(news_[1].kind, api::EventKind::kResized);
  EXPECT_TRUE(news_[1].text.starts_with("64 MiB of memory: the guest has plugged 0"))
      << news_[1].text;
  EXPECT_EQ(assembly_.Size()->memory_bytes, 64U << 20U);
}

TEST_F(AssemblyTest, SizeNamesTheThreadsOfTheVcpusThatRun) {
  EXPECT_EQ(Assembly().Size().error().code(), Code::kFailedPrecondition) << "before Create";
  EXPECT_EQ(assembly_.Size()->memory_bytes, 64U << 20U);
  EXPECT_TRUE(assembly_.Size()->vcpus.empty());
  ASSERT_TRUE(assembly_.Boot());
  const auto size = assembly_.Size();
  ASSERT_TRUE(size);
  ASSERT_EQ(size->vcpus.size(), kVcpus);
  for (uint32_t i = 0; i < kVcpus; ++i) {
    EXPECT_EQ(size->vcpus[i].vcpu, i);
    const std::string task = "/proc/self/task/" + std::to_string(size->vcpus[i].thread);
    EXPECT_EQ(access(task.c_str(), F_OK), 0) << task;
  }
}

TEST_F(AssemblyTest, VcpusThatTheGuestDoesNotTakeStopAgain) {
  const auto resize = [&](uint32_t vcpus) {
    return assembly_.ResizeVcpus(vcpus, std::chrono::milliseconds(200));
  };
  EXPECT_EQ(resize(3).error().code(), Code::kFailedPrecondition) << "it does not run";
  ASSERT_TRUE(Attach("vsock", api::VsockSpec{.guest_cid = 3}));
  ASSERT_TRUE(assembly_.Boot());
  for (const uint32_t vcpus : {0U, kVcpus + 3, UINT32_MAX}) {
    EXPECT_EQ(resize(vcpus).error().code(), Code::kInvalidArgument) << vcpus;
  }
  EXPECT_EQ(resize(kVcpus)->vcpus, kVcpus) << "nothing to ask for";
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(resize(kVcpus + 2).error().code(), Code::kDeadlineExceeded);
    EXPECT_EQ(assembly_.Metrics().counters.at("vcpus.running"), kVcpus);
  }
  const auto vcpus = assembly_.Metrics().vcpus;
  ASSERT_EQ(vcpus.size(), kVcpus + 2) << "those that do not run, too";
  EXPECT_EQ(vcpus[1].id, 1U);
  EXPECT_TRUE(vcpus[1].exits.contains("mmio_write"));
  ASSERT_EQ(news_.size(), 3U);
  EXPECT_EQ(news_[0].text, "2 vCPUs");
  EXPECT_EQ(news_[1].kind, api::EventKind::kHotplugFailed);
  EXPECT_TRUE(news_[1].text.starts_with("4 vCPUs: ")) << news_[1].text;
}

TEST_F(AssemblyTest, PausedGuestIsAskedForNothing) {
  ASSERT_TRUE(Attach("vsock", api::VsockSpec{.guest_cid = 3}));
  ASSERT_TRUE(Attach("rng", api::RngSpec{}));
  ASSERT_TRUE(assembly_.Boot());
  ASSERT_TRUE(assembly_.Pause());
  EXPECT_EQ(Attach("disk", Disk()).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(Detach("rng"), Code::kFailedPrecondition);
  EXPECT_EQ(Detach("rng", true), Code::kOk);
}

// Only the VMM itself asks for changes of the machine.
TEST_F(AssemblyTest, PortOfTheUpcallIsNobodysElse) {
  ASSERT_TRUE(Attach("vsock", api::VsockSpec{.guest_cid = 3}));
  ASSERT_TRUE(assembly_.Boot());
  SocketPair pair = *MakeSocketPair(SOCK_STREAM);
  const auto connected = assembly_.ConnectVsock(101, std::move(pair.first));
  ASSERT_FALSE(connected);
  EXPECT_EQ(connected.error().code(), Code::kPermissionDenied);
}

TEST_F(AssemblyTest, WhoWaitsForTheGuestIsReleasedByTheEnd) {
  ASSERT_TRUE(Attach("vsock", api::VsockSpec{.guest_cid = 3}));
  ASSERT_TRUE(assembly_.Boot());
  SocketPair pair = *MakeSocketPair(SOCK_STREAM);
  const auto start = std::chrono::steady_clock::now();
  auto attach = std::async(std::launch::async, [&] {
    return assembly_.Attach("disk", Disk(), std::chrono::minutes(10)).error().code();
  });
  auto connect = std::async(std::launch::async, [&] {
    return assembly_.ConnectVsock(1024, std::move(pair.first)).error().code();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(assembly_.Metrics().counters.empty()) << "others go on meanwhile";
  assembly_.EndWaits();
  EXPECT_EQ(attach.get(), Code::kUnavailable);
  EXPECT_EQ(connect.get(), Code::kUnavailable);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST_F(AssemblyTest, WindowOfADeviceThatDidNotComeUpIsGivenBack) {
  for (int attempt = 0; attempt < 4; ++attempt) {
    SocketPair pair = *MakeSocketPair(SOCK_STREAM);
    pair.first.Reset();
    const auto attached = Attach("fs", api::VhostUserFsSpec{.socket = std::move(pair.second),
                                                            .tag = "t",
                                                            .request_queues = 1,
                                                            .queue_size = 64,
                                                            .dax_window = 2 << 20U});
    ASSERT_FALSE(attached.has_value());
    EXPECT_EQ(attached.error().code(), Code::kUnavailable) << attached.error().message();
  }
}

TEST_F(AssemblyTest, NetworkBackEndThatDoesNotAnswerIsNotAttached) {
  const size_t fds = OpenFds();
  SocketPair pair = *MakeSocketPair(SOCK_STREAM);
  pair.first.Reset();
  const auto attached = Attach("user-net", api::VhostUserNetSpec{.socket = std::move(pair.second),
                                                                 .mac = {2, 0, 0, 0, 0, 1},
                                                                 .mtu = 65520,
                                                                 .queue_size = 256});
  ASSERT_FALSE(attached.has_value());
  EXPECT_EQ(attached.error().code(), Code::kUnavailable) << attached.error().message();
  EXPECT_LE(OpenFds(), fds);
}

TEST_F(AssemblyTest, ImagesThatAreNoneAreNamedAndNotAttached) {
  const auto attach = [&](std::initializer_list<uint64_t> sizes, UniqueFd more = UniqueFd()) {
    api::PmemSpec spec;
    for (const uint64_t size : sizes) {
      spec.images.push_back(ReadOnly(*MakeMemfd("image", size)));
    }
    if (more.valid()) {
      spec.images.push_back(std::move(more));
    }
    const auto attached = Attach("images", std::move(spec));
    return attached ? attached->pci_address : attached.error().message();
  };
  EXPECT_EQ(attach({}), "device images: persistent memory holds 1 to 16 images, not 0");
  EXPECT_EQ(attach({4096, 0, 4096}), "device images: image 2 of 3 is empty");
  EXPECT_EQ(attach({4096}, *Open("/dev/null", O_RDONLY)),
            "device images: image 2 of 2 is not a regular file");
  EXPECT_EQ(
      attach({4096, 16ULL << 30U}),
      "device images: image 2 of 2: its 17179869184 bytes do not fit in the 16382 MiB left of "
      "the guest's persistent memory window");
  EXPECT_EQ(attach({1, 4097, 2 << 20U}), "0000:00:01.0");
}

TEST_F(AssemblyTest, Cve20202025_ImageThatCouldBeWrittenToIsRefused) {
  for (const int flags : {O_RDWR, O_WRONLY}) {
    api::PmemSpec spec;
    spec.images.push_back(ReadOnly(*MakeMemfd("image", 4096)));
    spec.images.push_back(Reopened(*MakeMemfd("image", 4096), flags));
    const auto attached = Attach("images", std::move(spec));
    ASSERT_FALSE(attached.has_value());
    EXPECT_EQ(attached.error().code(), Code::kInvalidArgument);
    EXPECT_EQ(attached.error().message(),
              "device images: image 2 of 2 is open for writing: open it with O_RDONLY");
  }
}

// How a child ends that does this in a thread of this kind: 0 if it could.
int InThread(jail::ThreadKind kind, const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    const bool confined = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && jail::ReportViolations() &&
                          jail::InstallFilter(jail::ThreadKind::kControl) &&
                          jail::InstallFilter(kind);
    _exit(confined && body() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// The front-end's thread maps; what a reset or the end leaves is taken away by whoever is there.
TEST(WindowFilterTest, ThreadsShowAndHideFilesUnderTheirFilters) {
  const auto window = *mem::FileWindow::Create(2 << 20U);
  const UniqueFd file = *MakeMemfd("file", 4096);
  const auto show = [&] { return window->Map(0, 4096, file, 0, true).has_value(); };
  const auto hide = [&] { return window->Unmap(0, 4096).has_value(); };
  EXPECT_EQ(InThread(jail::ThreadKind::kWindow, show), 0);
  EXPECT_EQ(InThread(jail::ThreadKind::kDevice, show), jail::kViolationExit);
  EXPECT_EQ(InThread(jail::ThreadKind::kWindowVcpu, show), jail::kViolationExit);
  for (const auto kind :
       {jail::ThreadKind::kWindow, jail::ThreadKind::kWindowVcpu, jail::ThreadKind::kControl}) {
    EXPECT_EQ(InThread(kind, hide), 0);
  }
}

// What wyvern-vmm does for changes after Boot, in a process that may do no more than wyvern-vmm.
TEST(ControlFilterTest, ChangesAfterBootPassTheFilter) {
  if (access("/dev/kvm", R_OK | W_OK) != 0) {
    GTEST_SKIP() << "no usable /dev/kvm on this host";
  }
  const loader::testing::TestElf elf;  // of hlt alone
  api::MachineSpec spec;
  spec.memory_bytes = 64 << 20U;
  spec.hotplug_memory_bytes = 64 << 20U;
  spec.kvm = *Open("/dev/kvm", O_RDWR);
  spec.kernel = *MakeMemfd("kernel", 0);
  ASSERT_TRUE(WriteAll(spec.kernel, elf.Build()).has_value());
  api::PmemSpec images;
  images.images.push_back(ReadOnly(*MakeMemfd("image", 4096)));
  api::BlkSpec disk{.file = *MakeMemfd("disk", 1 << 20U), .read_only = false, .serial = "disk"};
  const auto changes = [&] {
    constexpr std::chrono::milliseconds kPatience(100);
    Assembly assembly;
    bool good = assembly.Create(std::move(spec)) &&
                assembly.Attach("console", Ports({"a", "wyvern.upcall"}), kPatience) &&
                assembly.Attach("mem", api::MemSpec{}, kPatience) &&
                assembly.Attach("images", std::move(images), kPatience) && assembly.Boot();
    // The guest halts at once, so these are tried and taken back.
    good = good && !assembly.Attach("disk", std::move(disk), kPatience) &&
           assembly.ResizeMemory(128 << 20U, kPatience) &&
           assembly.Detach({.id = "images", .force = true, .patience = kPatience});
    assembly.EndWaits();
    return good;
  };
  EXPECT_EQ(InThread(jail::ThreadKind::kControl, changes), 0);
}

TEST_F(AssemblyTest, MachineThatDidNotBootIsNotRunning) {
#ifdef WV_SANITIZED
  GTEST_SKIP() << "UBSan opens a pipe whenever it meets a new type";
#endif
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low{256, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<UniqueFd> taken;
  while (auto fd = Open("/dev/null", O_RDONLY)) {
    taken.push_back(*std::move(fd));
  }
  taken.resize(taken.size() - kVcpus - 1);  // for the vCPUs, and for one of their threads
  const auto booted = assembly_.Boot();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(booted.has_value());
  EXPECT_EQ(assembly_.Pause().error().code(), Code::kFailedPrecondition);
  EXPECT_FALSE(assembly_.Boot().has_value());
  EXPECT_EQ(assembly_.Resume().error().code(), Code::kFailedPrecondition);
}

}  // namespace
}  // namespace wyvern::vmm
