#include "kvm/probe.h"

#include <pthread.h>
#include <unistd.h>
#include <csignal>

#include <gtest/gtest.h>

namespace wyvern::kvm {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(ProbeTest, TimesOfRealVirtualizationWork) {
  // Hardware, and a machine inside an emulator.
  EXPECT_EQ(JudgeTimes(microseconds(17), microseconds(21), true), KvmVerdict::kWorks);
  EXPECT_EQ(JudgeTimes(microseconds(130), microseconds(600), true), KvmVerdict::kWorks);
}

TEST(ProbeTest, TimesOfAnInterpreterAreRefused) {
  EXPECT_EQ(JudgeTimes(microseconds(17), milliseconds(20), true), KvmVerdict::kInterprets);
  EXPECT_EQ(JudgeTimes(microseconds(17), milliseconds(1), false), KvmVerdict::kInterprets);
  EXPECT_EQ(JudgeTimes(microseconds(0), milliseconds(1), true), KvmVerdict::kInterprets);
}

TEST(ProbeTest, MissingDeviceIsAbsent) {
  const KvmProbe probe = ProbeKvm("/nonexistent/kvm");
  EXPECT_EQ(probe.verdict, KvmVerdict::kAbsent);
  EXPECT_NE(probe.detail.find("/nonexistent/kvm"), std::string::npos) << probe.detail;
  EXPECT_NE(probe.remedy.find("kvm_intel"), std::string::npos) << probe.remedy;
}

TEST(ProbeTest, OtherDeviceIsUnusable) {
  const KvmProbe probe = ProbeKvm("/dev/null");
  EXPECT_EQ(probe.verdict, KvmVerdict::kUnusable);
  EXPECT_FALSE(probe.detail.empty());
  EXPECT_FALSE(probe.remedy.empty());
}

TEST(ProbeTest, DeadlineHoldsAndSignalMaskIsKept) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    GTEST_SKIP() << "no usable /dev/kvm on this host";
  }
  sigset_t before;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &before);
  const auto start = std::chrono::steady_clock::now();
  const KvmProbe probe = ProbeKvm("/dev/kvm", milliseconds(50));
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(2000));
  EXPECT_TRUE(probe.verdict == KvmVerdict::kWorks || probe.verdict == KvmVerdict::kInterprets)
      << probe.detail;
  EXPECT_EQ(probe.remedy.empty(), probe.verdict == KvmVerdict::kWorks);
  RecordProperty("detail", probe.detail);
  sigset_t after;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &after);
  EXPECT_EQ(::sigismember(&before, SIGALRM), ::sigismember(&after, SIGALRM));
  sigset_t pending;
  ::sigpending(&pending);
  EXPECT_EQ(::sigismember(&pending, SIGALRM), 0);
}

}  // namespace
}  // namespace wyvern::kvm
