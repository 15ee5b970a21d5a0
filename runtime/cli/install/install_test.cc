#include "install/install.h"

#include <gmock/gmock.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "base/testing/must.h"
#include "config/config.h"
#include "install/containerd_config.h"
#include "install/manifest.h"
#include "install/places.h"

namespace wyvern::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr char kTheirs[] = R"(version = 2
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
)";

// A root with a containerd that is a script, and a payload.
class InstallTest : public testing::Test {
 protected:
  InstallTest() {
    std::string pattern = fs::temp_directory_path() / "wyvern-install-XXXXXX";
    top_ = mkdtemp(pattern.data());
    root_ = top_ / "root";
    payload_ = top_ / "payload";
    for (const char* file :
         {"bin/wyvern", "bin/containerd-shim-wyvern-v2", "libexec/wyvern-vmm", "libexec/wyvern-fs",
          "libexec/wyvern-anchor", "share/guest/vmlinux", "share/guest/image.erofs"}) {
      Write(payload_ / file, std::string("first ") + file);
    }
    fs::create_directories(root_ / "proc");
    fs::create_symlink("7", root_ / "proc/self");
    fs::create_directories(root_ / "usr/share/zsh/vendor-completions");
    Write(root_ / "etc/containerd/config.toml", kTheirs);
    Containerd("v1.7.24");
    options_.root = root_;
  }

  ~InstallTest() override { fs::remove_all(top_); }

  static void Write(const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  static std::string Read(const fs::path& path) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  // Dumps what it would read; refuses what has REFUSED in it, and forgets runc where it is told to.
  void Containerd(const std::string& version) {
    const fs::path program = root_ / "usr/bin/containerd";
    Write(program, "#!/bin/sh\n[ \"$1\" = --version ] && { echo \"containerd github.com/x " +
                       version +
                       " abc\"; exit; }\n"
                       "grep -q REFUSED \"$2\" && { echo 'containerd: bad key' >&2; exit 1; }\n"
                       "if grep -q FORGETS \"$2\" && grep -q 'install.* added' \"$2\"; then\n"
                       "  grep -v kata \"$2\"; exit; fi\n"
                       "cat \"$2\" $(dirname \"$2\")/conf.d/*.toml 2>/dev/null; exit 0\n");
    fs::permissions(program, fs::perms::owner_all);
  }

  Result<InstallReport> Run() {
    const Payload payload = Must(OpenPayload(payload_, "0.1.0",
                                             {{"share/wyvern.yaml", runtime::DefaultYaml()},
                                              {"share/man/man1/wyvern.1", ".TH"},
                                              {"share/completions/_wyvern", "#compdef"}}));
    return Install(payload, options_);
  }

  // All below the root but the fake containerd and /proc, with contents.
  std::string Everything() const {
    std::string all;
    for (const auto& entry : fs::recursive_directory_iterator(root_)) {
      const std::string path = fs::relative(entry.path(), root_);
      all += path + " " +
             (entry.is_symlink()        ? fs::read_symlink(entry.path()).string()
              : entry.is_regular_file() ? Read(entry.path())
                                        : "") +
             "\n";
    }
    return all;
  }

  fs::path top_, root_, payload_;
  InstallOptions options_;
};

TEST_F(InstallTest, EverythingIsWhereTheConfigurationSays) {
  const InstallReport report = Must(Run());
  EXPECT_THAT(report.version, StartsWith("0.1.0-"));
  EXPECT_TRUE(report.restart_containerd);
  EXPECT_EQ(Read(root_ / "usr/bin/wyvern"), "first bin/wyvern");
  EXPECT_EQ(Read(root_ / "usr/libexec/wyvern/wyvern-vmm"), "first libexec/wyvern-vmm");
  EXPECT_EQ(access((root_ / "usr/libexec/wyvern/wyvern-vmm").c_str(), X_OK), 0);
  EXPECT_EQ(Read(root_ / "usr/share/wyvern/guest/vmlinux"), "first share/guest/vmlinux");
  EXPECT_EQ(Read(root_ / "usr/share/man/man1/wyvern.1"), ".TH");
  EXPECT_EQ(Read(root_ / "usr/share/zsh/vendor-completions/_wyvern"), "#compdef");
  EXPECT_EQ(Read(root_ / "etc/wyvern/wyvern.yaml"), runtime::DefaultYaml());
  EXPECT_THAT(ReadContainerdConfig(Read(root_ / "etc/containerd/config.toml")).handlers,
              testing::ElementsAre("runc", "wyvern"));
}

TEST_F(InstallTest, UninstallLeavesWhatWasThere) {
  const std::string before = Everything();
  Must(Run());
  ASSERT_NE(Everything(), before);
  Must(Uninstall(options_));
  EXPECT_EQ(Everything(), before);
}

TEST_F(InstallTest, AgainChangesNothing) {
  Must(Run());
  const std::string before = Everything();
  const InstallReport report = Must(Run());
  EXPECT_EQ(Everything(), before);
  EXPECT_FALSE(report.restart_containerd);
}

TEST_F(InstallTest, AfterAnyInterruptionTheNextRunEndsIt) {
  Must(Run());
  const std::string whole = Everything();
  const Manifest manifest = Must(ReadManifest(root_.string() + kManifest));
  // Everything that a run puts into place, missing one at a time, as if it had not come to that.
  for (const Placed& item : manifest.placed) {
    if (item.kind == PlacedKind::kLink || item.kind == PlacedKind::kFile) {
      fs::remove(root_.string() + item.path);
      Must(Run());
      EXPECT_EQ(Everything(), whole) << item.path;
    }
  }
  const std::string version = manifest.version;
  fs::rename(root_ / "usr/lib/wyvern" / version, root_ / "usr/lib/wyvern" / (version + ".new"));
  Must(Run());
  EXPECT_EQ(Everything(), whole);
  Write(root_ / "usr/lib/wyvern" / version / "bin/wyvern", "harmed");
  Must(Run());
  EXPECT_EQ(Everything(), whole);
}

TEST_F(InstallTest, InterruptedBeforeAnythingItIsStillUndone) {
  const std::string before = Everything();
  Must(Run());
  // Only what is written first is there: the manifest of what was to be.
  const std::string manifest = Read(root_.string() + kManifest);
  Must(Uninstall(options_));
  Write(root_.string() + kManifest, manifest);
  Must(Uninstall(options_));
  EXPECT_EQ(Everything(), before);
}

TEST_F(InstallTest, AnEditedConfigurationIsKept) {
  Must(Run());
  const fs::path config = root_ / "etc/wyvern/wyvern.yaml";
  Write(config, "sandbox:\n  vcpus: 2\n");
  EXPECT_THAT(Must(Run()).lines, Contains(HasSubstr("kept as it was edited")));
  EXPECT_EQ(Read(config), "sandbox:\n  vcpus: 2\n");
  EXPECT_THAT(Must(Uninstall(options_)).lines,
              Contains(HasSubstr("wyvern.yaml stays: it was edited")));
  EXPECT_TRUE(fs::exists(config));
}

TEST_F(InstallTest, AConfigurationThatWasThereIsKeptAndLookedAt) {
  Write(root_ / "etc/wyvern/wyvern.yaml", "sandbox:\n  wheels: 4\n");
  EXPECT_THAT(Must(Run()).lines,
              Contains(AllOf(HasSubstr("does not take the configuration"), HasSubstr("wheels"))));
  Must(Uninstall(options_));
  EXPECT_EQ(Read(root_ / "etc/wyvern/wyvern.yaml"), "sandbox:\n  wheels: 4\n");
}

TEST_F(InstallTest, ForeignFilesStopItBeforeAnyChange) {
  Write(root_ / "usr/bin/wyvern", "somebody's");
  const std::string before = Everything();
  const auto report = Run();
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code(), Code::kAlreadyExists);
  EXPECT_THAT(report.error().message(), HasSubstr("/usr/bin/wyvern"));
  fs::remove_all(root_ / "var");  // the lock's place
  EXPECT_EQ(Everything(), before);
}

TEST_F(InstallTest, AForeignDropInIsNotReplaced) {
  Write(root_ / "etc/containerd/config.toml",
        "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n");
  Write(root_ / "etc/containerd/conf.d/wyvern.toml", "# mine");
  const auto report = Run();
  ASSERT_FALSE(report);
  EXPECT_THAT(report.error().message(), HasSubstr("conf.d/wyvern.toml is there"));
  EXPECT_FALSE(fs::exists(root_ / "usr/bin/wyvern"));
}

TEST_F(InstallTest, Containerd2GetsADropInWhereItImportsThem) {
  Containerd("v2.1.4");
  const std::string config = "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n";
  Write(root_ / "etc/containerd/config.toml", config);
  Must(Run());
  EXPECT_EQ(Read(root_ / "etc/containerd/config.toml"), config);
  EXPECT_EQ(Read(root_ / "etc/containerd/conf.d/wyvern.toml"), HandlerToml(3));
}

TEST_F(InstallTest, Containerd2WithoutImportsGetsTheLines) {
  Containerd("v2.1.4");
  Write(root_ / "etc/containerd/config.toml", "version = 3\n");
  Must(Run());
  EXPECT_THAT(Read(root_ / "etc/containerd/config.toml"),
              HasSubstr("io.containerd.cri.v1.runtime"));
  Must(Uninstall(options_));
  EXPECT_EQ(Read(root_ / "etc/containerd/config.toml"), "version = 3\n");
}

TEST_F(InstallTest, WithoutAConfigurationOneIsMadeForItsVersion) {
  for (const char* version : {"v2.1.4", "1.6.20~ds1"}) {
    Containerd(version);
    fs::remove_all(root_ / "etc/containerd");
    const std::string before = Everything();
    Must(Run());
    const ContainerdConfig config =
        ReadContainerdConfig(Read(root_ / "etc/containerd/config.toml"));
    EXPECT_EQ(config.version, version[0] == 'v' ? 3 : 2);
    EXPECT_EQ(fs::exists(root_ / "etc/containerd/conf.d/wyvern.toml"), version[0] == 'v');
    EXPECT_FALSE(Must(Run()).restart_containerd) << version;
    Must(Uninstall(options_));
    EXPECT_EQ(Everything(), before) << version;
  }
}

TEST_F(InstallTest, WhatContainerdRefusesIsTakenBack) {
  Write(root_ / "etc/containerd/config.toml",
        std::string(kTheirs) +
            "# FORGETS\n"
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\n");
  const std::string before = Read(root_ / "etc/containerd/config.toml");
  const auto report = Run();
  ASSERT_FALSE(report);
  EXPECT_THAT(report.error().message(), HasSubstr("would lose the handler kata"));
  EXPECT_EQ(Read(root_ / "etc/containerd/config.toml"), before);
}

TEST_F(InstallTest, AConfigurationThatContainerdRefusesAlreadyIsLeftAlone) {
  Write(root_ / "etc/containerd/config.toml", std::string(kTheirs) + "# REFUSED\n");
  const auto report = Run();
  ASSERT_FALSE(report);
  EXPECT_THAT(report.error().message(),
              AllOf(HasSubstr("before any change"), HasSubstr("bad key")));
}

TEST_F(InstallTest, WhereThereAreNoPodsNoHandlerIsAdded) {
  for (const char* text : {"disabled_plugins = [\"cri\"]\n", "root = \"/x\"\n",
                           "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"}) {
    Write(root_ / "etc/containerd/config.toml", text);
    EXPECT_THAT(Must(Run()).lines, Contains(HasSubstr("handler wyvern not added"))) << text;
    EXPECT_EQ(Read(root_ / "etc/containerd/config.toml"), text);
  }
}

TEST_F(InstallTest, NoContainerdIsAnErrorUnlessItIsNotWanted) {
  fs::remove(root_ / "usr/bin/containerd");
  const auto report = Run();
  ASSERT_FALSE(report);
  EXPECT_THAT(report.error().message(), HasSubstr("--without-containerd"));
  EXPECT_FALSE(fs::exists(root_ / "usr/bin/wyvern"));
  options_.containerd = false;
  Must(Run());
  EXPECT_EQ(Read(root_ / "etc/containerd/config.toml"), kTheirs);
}

TEST_F(InstallTest, AnUpgradeKeepsWhatLivingSandboxesRun) {
  const std::string first = Must(Run()).version;
  const fs::path versions = root_ / "usr/lib/wyvern";
  fs::create_directories(root_ / "proc/42");
  fs::create_symlink(versions / first / "libexec/wyvern-vmm", root_ / "proc/42/exe");
  Write(root_ / "proc/42/comm", "wyvern-vmm\n");
  Write(payload_ / "bin/wyvern", "second");
  const InstallReport report = Must(Run());
  EXPECT_NE(report.version, first);
  EXPECT_EQ(Read(root_ / "usr/bin/wyvern"), "second");
  EXPECT_EQ(Read(versions / first / "libexec/wyvern-vmm"), "first libexec/wyvern-vmm");
  Must(Run());
  EXPECT_THAT(Must(Run()).lines, Contains("version " + first + " kept for wyvern-vmm (pid 42)"));
  const auto uninstalled = Uninstall(options_);
  ASSERT_FALSE(uninstalled);
  EXPECT_THAT(uninstalled.error().message(), HasSubstr("wyvern-vmm (pid 42)"));
  fs::remove_all(root_ / "proc/42");
  Must(Run());
  EXPECT_FALSE(fs::exists(versions / first));
}

TEST_F(InstallTest, TheVersionJustReplacedStaysForOneRun) {
  const std::string first = Must(Run()).version;
  Write(payload_ / "bin/wyvern", "second");
  Must(Run());
  EXPECT_TRUE(fs::exists(root_ / "usr/lib/wyvern" / first));
  Must(Run());
  EXPECT_FALSE(fs::exists(root_ / "usr/lib/wyvern" / first));
}

TEST_F(InstallTest, WithoutProcNoVersionIsTakenForUnused) {
  const std::string first = Must(Run()).version;
  fs::remove(root_ / "proc/self");
  Write(payload_ / "bin/wyvern", "second");
  Must(Run());
  EXPECT_THAT(Must(Run()).lines, Contains(HasSubstr("version " + first + " kept: no /proc")));
}

TEST_F(InstallTest, ThisProgramMayUninstallItself) {
  const std::string version = Must(Run()).version;
  fs::create_directories(root_ / "proc/7");
  fs::create_symlink(root_ / "usr/lib/wyvern" / version / "bin/wyvern", root_ / "proc/7/exe");
  Must(Uninstall(options_));
}

TEST_F(InstallTest, ALinkThatSomebodyElseMadeStays) {
  Must(Run());
  fs::remove(root_ / "usr/bin/wyvern");
  Write(root_ / "usr/bin/wyvern", "theirs");
  EXPECT_THAT(Must(Uninstall(options_)).lines,
              Contains("/usr/bin/wyvern stays: it was changed since"));
  EXPECT_EQ(Read(root_ / "usr/bin/wyvern"), "theirs");
}

TEST_F(InstallTest, HandlerLinesThatWereEditedAreSaidToBe) {
  Must(Run());
  std::string text = Read(root_ / "etc/containerd/config.toml");
  text.replace(text.find("= true"), 6, "= false");
  Write(root_ / "etc/containerd/config.toml", text);
  EXPECT_THAT(Must(Uninstall(options_)).lines, Contains(HasSubstr("had been edited since")));
  EXPECT_EQ(Read(root_ / "etc/containerd/config.toml"), kTheirs);
}

TEST_F(InstallTest, TwoAtOnceAreOne) {
  Must(Run());
  const UniqueFd lock(open((root_.string() + kLock).c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(flock(lock.get(), LOCK_EX), 0);
  EXPECT_EQ(Run().error().code(), Code::kAborted);
  EXPECT_EQ(Uninstall(options_).error().code(), Code::kAborted);
}

TEST_F(InstallTest, UninstallOfNothingSaysSo) {
  EXPECT_THAT(Uninstall(options_).error().message(), HasSubstr("has put nothing here"));
}

TEST_F(InstallTest, AnIncompletePayloadIsNamed) {
  fs::remove(payload_ / "libexec/wyvern-fs");
  EXPECT_THAT(OpenPayload(payload_, "1", {}).error().message(), HasSubstr("libexec/wyvern-fs"));
}

TEST_F(InstallTest, ImagesOfRunsStay) {
  Must(Run());
  Write(root_ / "var/lib/wyvern/images/layer", "x");
  EXPECT_THAT(Must(Uninstall(options_)).lines, Contains(HasSubstr("/var/lib/wyvern stays")));
  EXPECT_TRUE(fs::exists(root_ / "var/lib/wyvern/images/layer"));
  EXPECT_FALSE(fs::exists(root_.string() + kManifest));
}

}  // namespace
}  // namespace wyvern::cli
