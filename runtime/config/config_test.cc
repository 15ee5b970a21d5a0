#include "config/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/fd.h"
#include "config/keys.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

class ConfigTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/wyvern-config-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    std::filesystem::create_directory(dir_ + "/conf.d");
    sources_.file = dir_ + "/wyvern.yaml";
    sources_.directory = dir_ + "/conf.d";
  }

  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string LoadError(std::string_view yaml) {
    EXPECT_TRUE(WriteFile(sources_.file, yaml).has_value());
    auto config = LoadConfig(sources_);
    return config.has_value() ? "(loaded)" : config.error().message();
  }

  std::string BodyError(std::string_view toml) {
    sources_.options_body = toml;
    auto config = LoadConfig(sources_);
    return config.has_value() ? "(loaded)" : config.error().message();
  }

  std::string dir_;
  ConfigSources sources_;
};

TEST_F(ConfigTest, UnknownKeyNamesFileAndLine) {
  EXPECT_THAT(LoadError("# x\nsandbox:\n  vcpu: 1\n"),
              HasSubstr(dir_ + "/wyvern.yaml:3: sandbox.vcpu: unknown key"));
  EXPECT_THAT(LoadError("nothing: 1\n"), HasSubstr(":1: nothing: unknown key"));
  EXPECT_EQ(LoadError("sandbox.vcpus: 1\n"), "(loaded)");
}

TEST_F(ConfigTest, WordsOfMemoryAreThoseListed) {
  EXPECT_EQ(LoadError("memory:\n  huge_pages: 2MiB\n  reclaim: always\n  page_reporting: false\n"),
            "(loaded)");
  const auto config = LoadConfig(sources_);
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ((*config)->memory.huge_pages, Config::Memory::HugePages::k2MiB);
  EXPECT_EQ((*config)->memory.reclaim, Config::Memory::Reclaim::kAlways);
  EXPECT_FALSE((*config)->memory.page_reporting);
  EXPECT_THAT(EffectiveYaml(**config), HasSubstr("  huge_pages: 2MiB  # "));
  EXPECT_THAT(LoadError("memory:\n  huge_pages: 4MiB\n"),
              HasSubstr("memory.huge_pages: must be transparent, none, 2MiB or 1GiB"));
  EXPECT_THAT(LoadError("memory:\n  huge_pages: [2MiB]\n"), HasSubstr("must be transparent"));
  EXPECT_THAT(LoadError("memory:\n  reclaim: true\n"),
              HasSubstr("memory.reclaim: must be limited, always or never"));
  EXPECT_EQ(LoadError(""), "(loaded)");  // the file's words stay otherwise
  EXPECT_EQ(BodyError("[memory]\nhuge_pages = \"1GiB\"\nreclaim = \"never\"\n"), "(loaded)");
}

TEST_F(ConfigTest, ReclaimIsForContainersWithALimitAndAnnotationsAskForMoreIfTheyMay) {
  EXPECT_EQ(BuiltInConfig().memory.reclaim, Config::Memory::Reclaim::kLimited);
  sources_.annotations = {{"io.wyvern.memory.reclaim", "always"}};
  EXPECT_THAT(LoadError(""), HasSubstr("annotations.allow does not list memory.reclaim"));
  EXPECT_EQ(LoadError("annotations:\n  allow: [memory.reclaim]\n"), "(loaded)");
  EXPECT_EQ((*LoadConfig(sources_))->memory.reclaim, Config::Memory::Reclaim::kAlways);
}

TEST_F(ConfigTest, RatesAreBitsASecondWithUnitsOfThousands) {
  EXPECT_EQ(LoadError("network:\n  rx_rate: 10M\n  tx_rate: 1500\n"), "(loaded)");
  const auto config = LoadConfig(sources_);
  EXPECT_EQ((*config)->network.rx_rate, 10'000'000U);
  EXPECT_EQ((*config)->network.tx_rate, 1500U);
  EXPECT_THAT(EffectiveYaml(**config), HasSubstr("  rx_rate: 10M  # "));
  for (const auto& [text, bits] : std::initializer_list<std::pair<const char*, uint64_t>>{
           {"0", 0}, {"1k", 1000}, {"1Ki", 1024}, {"2Mi", 2U << 20U}, {"1T", 1'000'000'000'000}}) {
    const auto rate = ParseRate(text);
    ASSERT_TRUE(rate.has_value()) << text;
    EXPECT_EQ(*rate, bits);
  }
  // Kubernetes' other spellings of numbers are none of ours: an error, not a guess.
  for (const char* text : {"", "10", "999", "2T", "1.5M", "1e6", "10MiB", "10Mbit", "-1M", "M",
                           "100m", "99999999999999999999", "18446744073709551615Ti"}) {
    EXPECT_FALSE(ParseRate(text).has_value()) << text;
  }
}

TEST_F(ConfigTest, KubernetesAndKatasBandwidthAnnotationsAreRates) {
  sources_.annotations = {{"kubernetes.io/ingress-bandwidth", "10M"},
                          {"kubernetes.io/egress-bandwidth", "1G"},
                          {"kubernetes.io/other", "x"}};
  EXPECT_EQ(LoadError(""), "(loaded)");
  EXPECT_EQ((*LoadConfig(sources_))->network.rx_rate, 10'000'000U);
  EXPECT_EQ((*LoadConfig(sources_))->network.tx_rate, 1'000'000'000U);
  EXPECT_THAT(LoadError("annotations:\n  allow: [network.tx_rate]\n"),
              HasSubstr("annotation kubernetes.io/ingress-bandwidth: annotations.allow does not "
                        "list network.rx_rate"));
  sources_.annotations = {{"kubernetes.io/egress-bandwidth", "fast"}};
  EXPECT_THAT(LoadError("annotations:\n  allow: [network.tx_rate]\n"),
              HasSubstr("annotation kubernetes.io/egress-bandwidth: 'fast' must be like 500k"));
  sources_.annotations = {{"io.katacontainers.config.hypervisor.rx_rate_limiter_max_rate", "5000"},
                          {"io.wyvern.network.tx_rate", "6k"}};
  EXPECT_EQ(LoadError("annotations:\n  allow: [network.rx_rate, network.tx_rate]\n"), "(loaded)");
  EXPECT_EQ((*LoadConfig(sources_))->network.rx_rate, 5000U);
  EXPECT_EQ((*LoadConfig(sources_))->network.tx_rate, 6000U);
}

TEST_F(ConfigTest, SocketsAreThoseThatTheHostAllows) {
  sources_.annotations = {{"io.wyvern.sockets.proxy", "/run/a.sock,/run/b.sock"}};
  EXPECT_THAT(LoadError(""), HasSubstr("sockets.proxy (annotation io.wyvern.sockets.proxy): "
                                       "sockets.allow does not list /run/a.sock"));
  EXPECT_THAT(LoadError("sockets:\n  allow: [/run/a.sock]\n"), HasSubstr("not list /run/b.sock"));
  EXPECT_EQ(LoadError("sockets:\n  allow: [/run/a.sock, /run/b.sock]\n"), "(loaded)");
  EXPECT_THAT((*LoadConfig(sources_))->sockets.proxy,
              testing::ElementsAre("/run/a.sock", "/run/b.sock"));
  for (const char* wrong : {"relative", "/a,,/b", ",/a", "/a\n/b"}) {
    sources_.annotations = {{"io.wyvern.sockets.proxy", wrong}};
    EXPECT_THAT(LoadError("sockets:\n  allow: [/a, /b]\n"), HasSubstr("is no absolute path"))
        << wrong;
  }
  sources_.annotations = {{"io.wyvern.sockets.allow", "/run/a.sock"}};
  EXPECT_THAT(LoadError(""), HasSubstr("annotations.allow does not list sockets.allow"));
  sources_.annotations.clear();
  EXPECT_THAT(LoadError("annotations:\n  allow: [sockets.allow]\n"),
              HasSubstr("not a key that an annotation can set"));
  EXPECT_THAT(LoadError("sockets:\n  proxy: [/run/c.sock]\n"), HasSubstr("wyvern.yaml:2"));
}

TEST_F(ConfigTest, GuestAllowIsAListOfKnownNames) {
  EXPECT_EQ(BuiltInConfig().guest.allow.size(), GuestPermissions().size());
  EXPECT_EQ(LoadError("guest:\n  allow: []\n"), "(loaded)");
  EXPECT_TRUE((*LoadConfig(sources_))->guest.allow.empty());
  EXPECT_EQ(LoadError("guest:\n  allow: [signal, exec]\n"), "(loaded)");
  const auto config = LoadConfig(sources_);
  EXPECT_THAT((*config)->guest.allow, testing::ElementsAre("signal", "exec"));
  EXPECT_THAT(EffectiveYaml(**config), HasSubstr("  allow: [signal, exec]  # "));
  EXPECT_THAT(LoadError("guest:\n  allow: [exec, all]\n"),
              HasSubstr("wyvern.yaml:2: guest.allow: 'all' is none of exec, guest_exec, stdin"));
  EXPECT_THAT(LoadError("guest:\n  allow: [\"exec panic=0\"]\n"), HasSubstr("is none of"));
  sources_.annotations = {{"io.wyvern.guest.allow", "exec,files"}};
  EXPECT_THAT(LoadError(""), HasSubstr("annotations.allow does not list guest.allow"));
  EXPECT_EQ(LoadError("annotations:\n  allow: [guest.allow]\n"), "(loaded)");
  EXPECT_THAT((*LoadConfig(sources_))->guest.allow, testing::ElementsAre("exec", "files"));
}

TEST_F(ConfigTest, BindMountsOfTheSandboxAreTheHostsToName) {
  EXPECT_EQ(LoadError("sandbox:\n  bind_mounts: [/etc/certs]\n"), "(loaded)");
  EXPECT_THAT((*LoadConfig(sources_))->sandbox.bind_mounts, testing::ElementsAre("/etc/certs"));
  EXPECT_THAT(LoadError("sandbox:\n  bind_mounts: [certs]\n"), HasSubstr("no absolute path"));
  EXPECT_THAT(LoadError("annotations:\n  allow: [sandbox.bind_mounts]\n"),
              HasSubstr("not a key that an annotation can set"));
  sources_.annotations = {{"io.wyvern.sandbox.bind_mounts", "/etc"}};
  EXPECT_THAT(LoadError(""), HasSubstr("annotations.allow does not list sandbox.bind_mounts"));
}

TEST_F(ConfigTest, WrongTypesNameFileAndLine) {
  EXPECT_THAT(LoadError("sandbox:\n  vcpus: many\n"),
              HasSubstr("wyvern.yaml:2: sandbox.vcpus: 'many' is not a whole number"));
  EXPECT_THAT(LoadError("sandbox:\n  vcpus: 9\n"), HasSubstr("9 is not in 1..8"));
  EXPECT_THAT(LoadError("sandbox:\n  vcpus: [1]\n"), HasSubstr("must be one value"));
  EXPECT_THAT(LoadError("sandbox:\n  vcpus:\n    a: 1\n"), HasSubstr("must be a value"));
  EXPECT_THAT(LoadError("sandbox: 7\n"), HasSubstr("sandbox: must be a section"));
  EXPECT_THAT(LoadError("sandbox:\n  memory: 3MiB\n"), HasSubstr("at least 64MiB"));
  EXPECT_THAT(LoadError("sandbox:\n  memory: 99999999999999999999GiB\n"),
              HasSubstr("must be like"));
  EXPECT_THAT(LoadError("sandbox:\n  memory: 99999999999999GiB\n"), HasSubstr("too large"));
  EXPECT_THAT(LoadError("sandbox:\n  kernel: vmlinux\n"), HasSubstr("must be an absolute path"));
  EXPECT_THAT(LoadError("timeouts:\n  boot: 5\n"), HasSubstr("must be like 500ms"));
  EXPECT_THAT(LoadError("log:\n  level: loud\n"), HasSubstr("must be debug"));
  EXPECT_THAT(LoadError("guest:\n  debug_exec: yes\n"), HasSubstr("must be true or false"));
  EXPECT_THAT(LoadError("guest:\n  debug_exec: [true]\n"), HasSubstr("must be true or false"));
  EXPECT_THAT(LoadError("annotations:\n  allow: [state_dir]\n"),
              HasSubstr("not a key that an annotation can set"));
  EXPECT_THAT(LoadError("sandbox:\n  vcpus: 1\n  vcpus: 2\n"), HasSubstr("given twice"));
}

TEST_F(ConfigTest, TextThatIsNotYamlIsErrorWithLine) {
  EXPECT_THAT(LoadError("sandbox:\n\t- ["), HasSubstr("not yaml"));
  EXPECT_THAT(LoadError("[1, 2]"), HasSubstr("must be a map"));
  EXPECT_THAT(LoadError(std::string(70000, '#')), HasSubstr("configuration"));
  EXPECT_EQ(LoadError(""), "(loaded)");
}

TEST_F(ConfigTest, AliasBombIsError) {
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 30; ++i) {
    bomb += fmt::format("a{0}: &a{0} [*a{1},*a{1},*a{1},*a{1},*a{1},*a{1}]\n", i, i - 1);
  }
  EXPECT_THAT(LoadError(bomb), HasSubstr("unknown key"));
}

TEST_F(ConfigTest, LaterSourcesWinAndOriginsSaySo) {
  ASSERT_TRUE(
      WriteFile(sources_.file, "sandbox:\n  vcpus: 2\n  memory: 128MiB\nlog:\n  level: debug\n")
          .has_value());
  ASSERT_TRUE(WriteFile(dir_ + "/conf.d/20-b.yaml", "sandbox: {vcpus: 4}\n").has_value());
  ASSERT_TRUE(WriteFile(dir_ + "/conf.d/10-a.yaml", "sandbox: {vcpus: 3}\n").has_value());
  ASSERT_TRUE(WriteFile(dir_ + "/conf.d/ignored.txt", "x: 3}\n").has_value());
  ASSERT_TRUE(WriteFile(dir_ + "/options.yaml", "sandbox:\n  memory: 1GiB\n").has_value());
  sources_.options_path = dir_ + "/options.yaml";
  sources_.annotations = {{"io.wyvern.vcpus", "5"}, {"other", "x"}};
  auto config = LoadConfig(sources_);
  ASSERT_TRUE(config.has_value()) << config.error().message();
  EXPECT_EQ((*config)->sandbox.vcpus, 5U);
  EXPECT_EQ((*config)->sandbox.memory, 1ULL << 30U);
  EXPECT_EQ((*config)->log.level, LogLevel::kDebug);
  const std::string yaml = EffectiveYaml(**config);
  EXPECT_THAT(yaml, HasSubstr("vcpus: 5  # annotation io.wyvern.vcpus"));
  EXPECT_THAT(yaml, HasSubstr("level: debug  # " + sources_.file + ":5"));
  EXPECT_THAT(yaml, HasSubstr("memory: 1GiB  # " + dir_ + "/options.yaml:2"));
  EXPECT_THAT(yaml, HasSubstr("state_dir: \"/run/wyvern\"  # built-in"));
}

TEST_F(ConfigTest, GuestExecIsOffUntilAFileSaysOtherwise) {
  EXPECT_FALSE(BuiltInConfig().guest.debug_exec);
  ASSERT_TRUE(WriteFile(sources_.file, "guest:\n  debug_exec: true\n").has_value());
  auto config = LoadConfig(sources_);
  ASSERT_TRUE(config.has_value()) << config.error().message();
  EXPECT_TRUE((*config)->guest.debug_exec);
  EXPECT_THAT(EffectiveYaml(**config), HasSubstr("debug_exec: true  # " + sources_.file + ":2"));
  // Pod authors are not the host's root.
  sources_.annotations = {{"io.wyvern.guest.debug_exec", "true"}};
  EXPECT_FALSE(LoadConfig(sources_).has_value());
}

TEST_F(ConfigTest, AnnotationsThatAreNotAllowedAreRefused) {
  sources_.annotations = {{"io.wyvern.sandbox.kernel", "/evil"}};
  auto config = LoadConfig(sources_);
  ASSERT_FALSE(config.has_value());
  EXPECT_EQ(config.error().code(), Code::kPermissionDenied);
  sources_.annotations = {{"io.wyvern.bogus", "1"}};
  EXPECT_FALSE(LoadConfig(sources_).has_value());
  sources_.annotations = {{"io.wyvern.vcpus", "1000"}};
  EXPECT_FALSE(LoadConfig(sources_).has_value());
}

TEST_F(ConfigTest, KataAnnotationsAreUnderstood) {
  sources_.annotations = {{"io.katacontainers.config.hypervisor.default_memory", "512"}};
  auto config = LoadConfig(sources_);
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ((*config)->sandbox.memory, 512ULL << 20U);
}

TEST_F(ConfigTest, OptionsCannotMoveTheStateDirectory) {
  EXPECT_THAT(BodyError("state_dir = '/tmp/x'\n"),
              HasSubstr("runtime options:1: state_dir: can only be set below /etc/wyvern"));
  EXPECT_THAT(BodyError("[annotations]\nallow = ['sandbox.kernel']\n"),
              HasSubstr("runtime options:2: annotations.allow: can only be set below"));
}

TEST_F(ConfigTest, WrongTypesInOptionsNameTheLine) {
  EXPECT_THAT(BodyError("\n[sandbox]\nvcpus = '2'\n"),
              HasSubstr("runtime options:3: sandbox.vcpus: must be an integer"));
  EXPECT_THAT(BodyError("[sandbox]\nvcpus = true\n"), HasSubstr("must be an integer"));
  EXPECT_THAT(BodyError("[sandbox]\nvcpus = -1\n"), HasSubstr("'-1' is not a whole number"));
  EXPECT_THAT(BodyError("[sandbox]\nvcpus = 9\n"), HasSubstr("9 is not in 1..8"));
  EXPECT_THAT(BodyError("[sandbox]\nvcpus = ['1']\n"), HasSubstr("must be one value"));
  EXPECT_THAT(BodyError("[sandbox]\nmemory = false\n"), HasSubstr("must be a string or an"));
  EXPECT_THAT(BodyError("[sandbox]\nmemory = -9223372036854775808\n"), HasSubstr("must be like"));
  EXPECT_THAT(BodyError("[sandbox]\nkernel_cmdline = 5\n"), HasSubstr("must be a string"));
  EXPECT_THAT(BodyError("[sandbox]\nkernel_cmdline = \"a\\u0000b\"\n"),
              HasSubstr("without control characters"));
  EXPECT_THAT(BodyError("[sandbox]\nkernel = 5\n"), HasSubstr("must be an absolute path"));
  EXPECT_THAT(BodyError("[sandbox]\ninitrd = false\n"), HasSubstr("must be an absolute path"));
  EXPECT_THAT(BodyError("[guest]\ndebug_exec = 'true'\n"), HasSubstr("must be true or false"));
  EXPECT_THAT(BodyError("[timeouts]\nboot = 5\n"), HasSubstr("must be like 500ms"));
  EXPECT_THAT(BodyError("[log]\nlevel = true\n"), HasSubstr("must be debug"));
}

TEST_F(ConfigTest, OptionsComeAfterFilesAndBeforeAnnotations) {
  ASSERT_TRUE(WriteFile(sources_.file, "sandbox: {vcpus: 2, memory: 128MiB}\n").has_value());
  ASSERT_TRUE(WriteFile(dir_ + "/options.yaml", "sandbox: {memory: 192MiB}\n").has_value());
  sources_.options_path = dir_ + "/options.yaml";
  sources_.options_body =
      "TypeUrl = 'x'\n[sandbox]\nvcpus = 3\nmemory = 268435456\n[guest]\ndebug_exec = false\n";
  sources_.annotations = {{"io.wyvern.vcpus", "4"}};
  auto config = LoadConfig(sources_);
  ASSERT_TRUE(config.has_value()) << config.error().message();
  EXPECT_EQ((*config)->sandbox.vcpus, 4U);
  EXPECT_EQ((*config)->sandbox.memory, 256U << 20U);
  EXPECT_FALSE((*config)->guest.debug_exec);
  EXPECT_THAT(EffectiveYaml(**config), HasSubstr("memory: 256MiB  # runtime options:4"));
}

TEST_F(ConfigTest, WrongValueOfTheCommandLineIsSaidToComeFromThere) {
  sources_.command_line = {{"sandbox.memory", "5"}};
  EXPECT_THAT(LoadError(""), testing::StartsWith("command line: sandbox.memory: "));
  sources_.command_line = {{"sandbox.memory", "much"}};
  EXPECT_THAT(LoadError(""), HasSubstr("command line: sandbox.memory: 'much' must be like 512MiB"));
  sources_.command_line = {{"sandbox.size", "1"}};
  EXPECT_THAT(LoadError(""), HasSubstr("command line: sandbox.size: unknown key"));
}

TEST_F(ConfigTest, CommandLineComesAfterAFile) {
  ASSERT_TRUE(WriteFile(dir_ + "/options.yaml", "sandbox: {vcpus: 2}\n").has_value());
  sources_.options_path = dir_ + "/options.yaml";
  sources_.command_line = {{"sandbox.vcpus", "3"}, {"guest.name", "debian-12"}};
  auto config = LoadConfig(sources_);
  ASSERT_TRUE(config.has_value()) << config.error().message();
  EXPECT_EQ((*config)->sandbox.vcpus, 3U);
  EXPECT_EQ((*config)->guest.name, "debian-12");
  EXPECT_THAT(EffectiveYaml(**config), HasSubstr("vcpus: 3  # command line\n"));
}

TEST_F(ConfigTest, MissingOptionsFileIsError) {
  sources_.options_path = dir_ + "/absent.yaml";
  EXPECT_FALSE(LoadConfig(sources_).has_value());
}

TEST_F(ConfigTest, AnUpgradeAfterwardsDoesNotChangeWhichProgramsAreMeant) {
  for (const char* version : {"1", "2"}) {
    std::filesystem::create_directories(dir_ + "/" + version + "/bin");
    ASSERT_TRUE(WriteFile(dir_ + "/" + version + "/bin/wyvern-vmm", version).has_value());
  }
  std::filesystem::create_symlink("1", dir_ + "/current");
  ASSERT_EQ(LoadError(fmt::format("paths:\n  vmm: {0}/current/bin/wyvern-vmm\n  fs: {0}/gone/fs\n",
                                  dir_)),
            "(loaded)");
  const auto config = LoadConfig(sources_);
  EXPECT_EQ((*config)->paths.vmm, std::filesystem::canonical(dir_).string() + "/1/bin/wyvern-vmm");
  EXPECT_EQ((*config)->paths.fs, dir_ + "/gone/fs");
}

// A shim was started, Wyvern upgraded, and then its first container asked for.
TEST_F(ConfigTest, AnUpgradeJustBeforeLeavesAProgramWithItsOwnVersion) {
  const std::string versions = std::filesystem::canonical(dir_).string() + "/versions";
  for (const char* version : {"1", "2"}) {
    for (const char* part : {"bin", "libexec"}) {
      std::filesystem::create_directories(fmt::format("{}/{}/{}", versions, version, part));
    }
    ASSERT_TRUE(WriteFile(fmt::format("{}/{}/bin/shim", versions, version), "").has_value());
    ASSERT_TRUE(WriteFile(fmt::format("{}/{}/libexec/vmm", versions, version), "").has_value());
  }
  ASSERT_TRUE(WriteFile(versions + "/2/libexec/fs", "").has_value());  // the first had none
  std::filesystem::create_directory_symlink("2", versions + "/current");
  sources_.program = versions + "/1/bin/shim";
  ASSERT_EQ(
      LoadError(fmt::format("paths:\n  vmm: {0}/current/libexec/vmm\n  fs: {0}/current/libexec/fs\n"
                            "  anchor: {0}/2/libexec/vmm\n",
                            versions)),
      "(loaded)");
  const auto config = LoadConfig(sources_);
  EXPECT_EQ((*config)->paths.vmm, versions + "/1/libexec/vmm");
  EXPECT_EQ((*config)->paths.fs, versions + "/2/libexec/fs");
  EXPECT_EQ((*config)->paths.anchor,
            versions + "/2/libexec/vmm");  // no link: what is meant is said
  sources_.program = dir_ + "/elsewhere/bin/shim";
  EXPECT_EQ((*LoadConfig(sources_))->paths.vmm, versions + "/2/libexec/vmm");
}

TEST_F(ConfigTest, CommittedFileIsTheBuiltInTable) {
  auto committed = ReadFile(WV_CONFIGS_DIR "/wyvern.yaml");
  ASSERT_TRUE(committed.has_value());
  EXPECT_EQ(*committed, DefaultYaml()) << "write DefaultYaml() to configs/wyvern.yaml";
}

TEST_F(ConfigTest, CommittedFileLoadsToTheBuiltInValues) {
  EXPECT_EQ(LoadError(DefaultYaml()), "(loaded)");
  auto config = LoadConfig(sources_);
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ((*config)->timeouts.boot, BuiltInConfig().timeouts.boot);
}

}  // namespace
}  // namespace wyvern::runtime
