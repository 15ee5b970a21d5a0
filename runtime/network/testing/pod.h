// network/testing/pod.h — a pod's network for tests: eth0 in a namespace of its own, peer0 at the other end in another. Both go with the
// test. By iproute2, as a CNI plugin would.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/subprocess.h"
#include "network/netns.h"
#include "network/scan.h"

namespace wyvern::runtime {

// What `argv` prints, in that namespace.
inline Result<std::string> RunIn(FdRef network_namespace, std::vector<std::string> argv) {
  CommandOutput output;
  WV_TRY_VOID(InNetworkNamespace(network_namespace, [&]() -> Result<> {
    SpawnOptions options;
    options.argv = std::move(argv);
    WV_TRY(output, RunCommand(options, 20'000, 8 << 20));
    return {};
  }));
  if (output.status.AsShell() != 0) {
    return Fail(Code::kInternal, output.err);
  }
  return output.out;
}

class PodTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) {
      GTEST_SKIP() << "making network namespaces needs root";
    }
    for (const char* program : {kIp, kTc}) {
      if (access(program, X_OK) != 0) {
        GTEST_SKIP() << program << " is not there (iproute2)";
      }
    }
    auto pod = MakeNetworkNamespace();
    auto outside = MakeNetworkNamespace();
    ASSERT_TRUE(pod.has_value()) << pod.error().message();
    ASSERT_TRUE(outside.has_value()) << outside.error().message();
    pod_ = *std::move(pod);
    outside_ = *std::move(outside);
    // Addresses are there at once, and nothing about them changes later. Outside nobody speaks by himself.
    (void)RunIn(pod_, {"/bin/sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"});
    (void)RunIn(outside_,
                {"/bin/sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"});
    const std::string there =
        "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(outside_.get());
    if (const auto made = RunIn(pod_, {kIp, "link", "add", "eth0", "type", "veth", "peer", "name",
                                       "peer0", "netns", there});
        !made.has_value()) {
      GTEST_SKIP() << "no veth: " << made.error().message();
    }
    ASSERT_TRUE(RunIn(outside_, {kIp, "link", "set", "peer0", "up"}).has_value());
    Ip("link set eth0 up");
  }

  // Words of an ip(8) or tc(8) command, in the pod's namespace.
  void Ip(const std::string& words) { Run(kIp, words); }

  void Tc(const std::string& words) { Run(kTc, words); }

  // Many of ip's, a line each.
  void IpBatch(const std::string& lines) {
    auto file = MakeMemfd("batch", 0);
    ASSERT_TRUE(file.has_value() && WriteAll(*file, lines).has_value());
    const auto done =
        RunIn(pod_, {kIp, "-batch",
                     "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file->get())});
    ASSERT_TRUE(done.has_value()) << done.error().message();
  }

  NetworkScan Scan() {
    auto scan = ScanNetwork(pod_);
    EXPECT_TRUE(scan.has_value()) << scan.error().message();
    return scan.has_value() ? *std::move(scan) : NetworkScan{};
  }

  // Of the scan; one that is in none if it is not there.
  Interface Find(const std::string& name) {
    const NetworkScan scan = Scan();
    const auto found = std::find_if(scan.interfaces.begin(), scan.interfaces.end(),
                                    [&](const Interface& it) { return it.name == name; });
    EXPECT_NE(found, scan.interfaces.end()) << name;
    return found == scan.interfaces.end() ? Interface{} : *found;
  }

  std::string Show(const std::string& words) {
    const auto out = RunIn(pod_, Words(kTc, words));
    EXPECT_TRUE(out.has_value()) << out.error().message();
    return out.value_or("");
  }

  static constexpr const char* kIp = "/sbin/ip";
  static constexpr const char* kTc = "/sbin/tc";

  UniqueFd pod_;
  UniqueFd outside_;

 private:
  static std::vector<std::string> Words(const char* program, std::string_view words) {
    std::vector<std::string> argv = {program};
    while (!words.empty()) {
      const size_t end = std::min(words.find(' '), words.size());
      argv.emplace_back(words.substr(0, end));
      words.remove_prefix(std::min(end + 1, words.size()));
    }
    return argv;
  }

  void Run(const char* program, const std::string& words) {
    const auto done = RunIn(pod_, Words(program, words));
    ASSERT_TRUE(done.has_value()) << words << ": " << done.error().message();
  }
};

}  // namespace wyvern::runtime
