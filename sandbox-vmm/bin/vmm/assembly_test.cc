// The machine behind the API with kernels of a few instructions.
#include "vmm/assembly.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
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
    spec.kvm = *Open("/dev/kvm", O_RDWR);
    spec.kernel = *MakeMemfd("kernel", 0);
    ASSERT_TRUE(WriteAll(spec.kernel, elf.Build()).has_value());
    spec.vcpus = kVcpus;
    const auto created = assembly_.Create(std::move(spec));
    ASSERT_TRUE(created.has_value()) << created.error().message();
  }

  static constexpr uint32_t kVcpus = 2;
  Assembly assembly_;
};

TEST_F(AssemblyTest, VsockDeviceThatDoesNotFitIsNotTheMachines) {
  int fitting = 0;
  while (fitting < 100 && assembly_.Attach("rng" + std::to_string(fitting), api::RngSpec{})) {
    ++fitting;
  }
  ASSERT_LT(fitting, 100);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto attached = assembly_.Attach("vsock", api::VsockSpec{.guest_cid = 3});
    ASSERT_FALSE(attached.has_value());
    EXPECT_EQ(attached.error().code(), Code::kResourceExhausted) << attached.error().message();
  }
  ASSERT_TRUE(assembly_.Boot().has_value());
  SocketPair pair = *MakeSocketPair(SOCK_STREAM);
  const auto connected = assembly_.ConnectVsock(1024, std::move(pair.first));
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code(), Code::kFailedPrecondition);
}

TEST_F(AssemblyTest, WindowOfADeviceThatDidNotComeUpIsGivenBack) {
  for (int attempt = 0; attempt < 4; ++attempt) {
    SocketPair pair = *MakeSocketPair(SOCK_STREAM);
    pair.first.Reset();
    const auto attached =
        assembly_.Attach("fs", api::VhostUserFsSpec{.socket = std::move(pair.second),
                                                    .tag = "t",
                                                    .request_queues = 1,
                                                    .queue_size = 64,
                                                    .dax_window = 2 << 20U});
    ASSERT_FALSE(attached.has_value());
    EXPECT_EQ(attached.error().code(), Code::kUnavailable) << attached.error().message();
  }
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
    const auto attached = assembly_.Attach("images", std::move(spec));
    return attached ? std::string(*attached) : attached.error().message();
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
    const auto attached = assembly_.Attach("images", std::move(spec));
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
