#include "cli/check.h"

#include <gmock/gmock.h>

#include <functional>
#include <nlohmann/json.hpp>

namespace wyvern::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A host on which nothing is wrong.
HostFacts GoodHost() {
  HostFacts facts;
  facts.kvm = {api::KvmState::kWorks, "/dev/kvm runs guests", ""};
  facts.kernel_release = "6.1.0-18-amd64";
  facts.cgroup_root = "/sys/fs/cgroup";
  facts.cgroup_v2 = true;
  facts.shmem_enabled = "always within_size [advise] never deny force\n";
  facts.io_uring = true;
  facts.memory_bytes = 8ULL << 30U;
  facts.kernel = {"/guest/vmlinux", true};
  facts.image = {"/guest/image.erofs", true};
  facts.vmm = {"/libexec/wyvern-vmm", true};
  facts.fs = {"/libexec/wyvern-fs", true};
  facts.anchor = {"/libexec/wyvern-anchor", true};
  return facts;
}

std::vector<std::string> Names(const std::vector<Finding>& findings) {
  std::vector<std::string> names;
  names.reserve(findings.size());
  for (const Finding& finding : findings) {
    names.push_back(finding.name);
  }
  return names;
}

TEST(CheckTest, GoodHostHasAllFindingsAndNoRemedy) {
  const auto findings = FindingsOf(GoodHost());
  EXPECT_THAT(Names(findings), ElementsAre("kvm", "kernel", "cgroups", "shmem-thp", "io_uring",
                                           "memory", "guest", "image", "vmm", "fs", "anchor"));
  for (const Finding& finding : findings) {
    EXPECT_EQ(finding.verdict, Verdict::kOk) << finding.name;
    EXPECT_FALSE(finding.text.empty()) << finding.name;
    EXPECT_EQ(finding.remedy, "") << finding.name;
  }
  EXPECT_EQ(StatusOf(findings), 0);
}

struct Case {
  const char* name;  // of the only finding that is not as on a good host
  std::function<void(HostFacts&)> change;
  Verdict verdict;
  const char* text;
  const char* remedy;
};

std::function<void(HostFacts&)> Release(const char* release) {
  return [release](HostFacts& facts) { facts.kernel_release = release; };
}

std::function<void(HostFacts&)> Shmem(const char* text) {
  return [text](HostFacts& facts) { facts.shmem_enabled = text; };
}

std::vector<Case> Cases() {
  using enum Verdict;
  return {
      {"kvm",
       [](HostFacts& f) {
         f.kvm = {api::KvmState::kAbsent, "no /dev/kvm", "load kvm"};
       },
       kMissing, "no /dev/kvm", "load kvm"},
      {"kvm",
       [](HostFacts& f) {
         f.kvm = {api::KvmState::kInterprets, "interprets", "another host"};
       },
       kMissing, "interprets", "another host"},
      {"kvm",
       [](HostFacts& f) {
         f.kvm = {api::KvmState::kUnusable, "denied", "be root"};
       },
       kMissing, "denied", "be root"},
      {"kernel", Release("6.0.19"), kMissing, "host kernel 6.0.19", "Linux 6.1 or newer"},
      {"kernel", Release("5.19.0-1-amd64"), kMissing, "5.19.0", "Linux 6.1 or newer"},
      {"kernel", Release(""), kMissing, "host kernel", "Linux 6.1 or newer"},
      {"kernel", Release("next"), kMissing, "next", "Linux 6.1 or newer"},
      {"cgroups", [](HostFacts& f) { f.cgroup_v2 = false; }, kMissing,
       "no cgroup v2 at /sys/fs/cgroup", "systemd.unified_cgroup_hierarchy=1"},
      {"shmem-thp", Shmem("always within_size advise [never] deny force\n"), kWarning, ": never",
       "echo advise >"},
      {"shmem-thp", Shmem("[deny]"), kWarning, ": deny", "echo advise >"},
      {"shmem-thp", Shmem(""), kWarning, ": unknown", "echo advise >"},
      {"shmem-thp", Shmem("["), kWarning, "shared memory: ", "echo advise >"},
      {"io_uring", [](HostFacts& f) { f.io_uring = false; }, kWarning, "is not available",
       "kernel.io_uring_disabled=0"},
      {"memory", [](HostFacts& f) { f.memory_bytes = (1ULL << 30U) - 1; }, kWarning,
       "1023 MiB of memory", "sandbox.memory"},
      {"guest", [](HostFacts& f) { f.kernel.usable = false; }, kMissing,
       "/guest/vmlinux is missing", "build-kernel.sh"},
      {"image", [](HostFacts& f) { f.image.usable = false; }, kMissing,
       "/guest/image.erofs is missing", "build-image.sh"},
      {"vmm", [](HostFacts& f) { f.vmm.usable = false; }, kMissing,
       "/libexec/wyvern-vmm is missing", "paths.vmm"},
      {"fs", [](HostFacts& f) { f.fs.usable = false; }, kMissing, "/libexec/wyvern-fs is missing",
       "paths.fs"},
      {"anchor", [](HostFacts& f) { f.anchor.usable = false; }, kMissing,
       "/libexec/wyvern-anchor is missing", "paths.anchor"},
  };
}

TEST(CheckTest, EachFaultIsOneFindingWithARemedy) {
  for (const Case& it : Cases()) {
    HostFacts facts = GoodHost();
    it.change(facts);
    const auto findings = FindingsOf(facts);
    EXPECT_EQ(findings.size(), FindingsOf(GoodHost()).size());
    for (const Finding& finding : findings) {
      if (finding.name != it.name) {
        EXPECT_EQ(finding.verdict, Verdict::kOk) << finding.name << " for " << it.name;
        continue;
      }
      EXPECT_EQ(finding.verdict, it.verdict) << it.name << ": " << it.text;
      EXPECT_THAT(finding.text, HasSubstr(it.text));
      EXPECT_THAT(finding.remedy, HasSubstr(it.remedy));
    }
    EXPECT_EQ(StatusOf(findings), it.verdict == Verdict::kMissing ? 1 : 0) << it.name;
  }
}

TEST(CheckTest, NewerKernelsAndOtherHugePagesAreGood) {
  for (const char* release : {"6.1", "6.12.57+deb13-amd64", "7.0.0-rc1", "10.0"}) {
    HostFacts facts = GoodHost();
    facts.kernel_release = release;
    EXPECT_EQ(FindingsOf(facts)[1].verdict, Verdict::kOk) << release;
  }
  for (const char* value : {"[always] advise", "always [within_size]", "[advise]"}) {
    HostFacts facts = GoodHost();
    facts.shmem_enabled = value;
    EXPECT_EQ(FindingsOf(facts)[3].verdict, Verdict::kOk) << value;
  }
}

TEST(CheckTest, PeopleAndProgramsReadTheSame) {
  HostFacts facts = GoodHost();
  facts.io_uring = false;
  facts.image.usable = false;
  const auto findings = FindingsOf(facts);
  const std::string text = Render(findings, false);
  EXPECT_THAT(text, HasSubstr("ok       kvm        /dev/kvm runs guests\n"));
  EXPECT_THAT(text, HasSubstr("missing  image      /guest/image.erofs is missing\n"
                              "                    → build it with"));
  EXPECT_THAT(text, HasSubstr("warning  io_uring "));
  const auto list = nlohmann::json::parse(Render(findings, true));
  ASSERT_EQ(list.size(), findings.size());
  for (size_t i = 0; i < findings.size(); ++i) {
    EXPECT_EQ(list[i]["name"], findings[i].name);
    EXPECT_EQ(list[i]["text"], findings[i].text);
    EXPECT_EQ(list[i]["remedy"], findings[i].remedy);
  }
  EXPECT_EQ(list[4]["verdict"], "warning");
  EXPECT_EQ(list[7]["verdict"], "missing");
}

}  // namespace
}  // namespace wyvern::cli
