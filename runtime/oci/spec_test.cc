#include "oci/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace wyvern::oci {
namespace {

using Json = nlohmann::json;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

Json Minimal() {
  return Json::parse(
      R"({"ociVersion":"1.1.0","root":{"path":"rootfs"},"process":{"user":{"uid":0,"gid":0},"args":["true"],"cwd":"/"}})");
}

std::string ParseError(const Json& json) {
  auto spec = Spec::Parse(json.dump());
  return spec.has_value() ? "(parsed)" : spec.error().message();
}

Result<GuestSpec> Translate(const Json& json) {
  WV_TRY(Spec spec, Spec::Parse(json.dump()));
  return spec.Translate({.container_id = "box", .bundle = "/bundle", .share_prefix = "c0"});
}

std::string TranslateError(const Json& json) {
  auto guest = Translate(json);
  return guest.has_value() ? "(translated)" : guest.error().message();
}

Json Guest(const Json& json) {
  auto guest = Translate(json);
  EXPECT_TRUE(guest.has_value()) << guest.error().message();
  return guest.has_value() ? Json::parse(guest->config_json) : Json();
}

std::vector<std::string> NotesOf(const Json& json) {
  auto guest = Translate(json);
  EXPECT_TRUE(guest.has_value());
  return guest.has_value() ? guest->notes : std::vector<std::string>();
}

TEST(SpecTest, TextThatIsNotJsonIsError) {
  for (const char* text :
       {"", "{", "nonsense", "{\"a\":}", "\xff\xfe", "[1,2", "{\"a\":\"\xc3\x28\"}"}) {
    auto spec = Spec::Parse(text);
    ASSERT_FALSE(spec.has_value()) << text;
    EXPECT_EQ(spec.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(spec.error().message(), HasSubstr("config.json")) << text;
  }
}

TEST(SpecTest, DocumentThatIsNotAnObjectIsError) {
  EXPECT_FALSE(Spec::Parse("[]").has_value());
}

TEST(SpecTest, DeepNestingIsErrorWithoutRecursion) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  auto spec = Spec::Parse(deep);
  ASSERT_FALSE(spec.has_value());
  EXPECT_THAT(spec.error().message(), HasSubstr("nested deeper"));
}

TEST(SpecTest, BracketsInStringsAreNoNesting) {
  Json json = Minimal();
  json["process"]["args"] = {"true", std::string(100, '['), "\\\"[[["};
  EXPECT_EQ(ParseError(json), "(parsed)");
}

TEST(SpecTest, TooLargeIsError) {
  auto spec = Spec::Parse(std::string(kMaxConfigBytes + 1, ' '));
  ASSERT_FALSE(spec.has_value());
  EXPECT_THAT(spec.error().message(), HasSubstr("larger than"));
}

TEST(SpecTest, WrongTypesNameTheField) {
  Json json = Minimal();
  json["process"]["args"] = Json::array({"sh", 7});
  EXPECT_THAT(ParseError(json), HasSubstr("process.args[1]: must be a string"));
  json = Minimal();
  json["process"]["user"]["uid"] = -1;
  EXPECT_THAT(ParseError(json), HasSubstr("process.user.uid: must be in 0..4294967295"));
  json = Minimal();
  json["process"]["user"]["uid"] = 1.5;
  EXPECT_THAT(ParseError(json), HasSubstr("process.user.uid: must be an integer"));
  json = Minimal();
  json["mounts"] = Json::array({Json{{"destination", 4}}});
  EXPECT_THAT(ParseError(json), HasSubstr("mounts[0].destination: must be a string"));
  json = Minimal();
  json["linux"] = "x";
  EXPECT_THAT(ParseError(json), HasSubstr("linux: must be an object"));
}

TEST(SpecTest, NulInAStringIsError) {
  Json json = Minimal();
  json["process"]["args"] = {std::string("a\0b", 3)};
  EXPECT_THAT(ParseError(json), HasSubstr("process.args[0]: must be without NUL"));
}

TEST(SpecTest, MissingFieldsAreNamed) {
  for (const auto& [key, message] : std::map<std::string, std::string>{
           {"root", "root.path: missing"}, {"process", "process: missing"}}) {
    Json json = Minimal();
    json.erase(key);
    EXPECT_THAT(ParseError(json), HasSubstr(message));
  }
  Json json = Minimal();
  json["process"].erase("args");
  EXPECT_THAT(ParseError(json), HasSubstr("process.args: missing or empty"));
  json = Minimal();
  json["process"]["cwd"] = "tmp";
  EXPECT_THAT(ParseError(json), HasSubstr("process.cwd: must be an absolute path"));
}

TEST(SpecTest, UnknownFieldsAreLeftOutWithANote) {
  Json json = Minimal();
  json["process"]["brandNew"] = {{"x", 1}};
  json["process.user"] = "trick";
  const std::vector<std::string> notes = NotesOf(json);
  EXPECT_THAT(notes, Contains(HasSubstr("process.brandNew: unknown field")));
  EXPECT_THAT(notes, Contains(HasSubstr("process.user: unknown field")));
  EXPECT_FALSE(Guest(json)["process"].contains("brandNew"));
}

TEST(SpecTest, NotesAreBounded) {
  Json json = Minimal();
  for (int i = 0; i < 10'000; ++i) {
    json["unknown" + std::to_string(i)] = 1;
  }
  EXPECT_LE(NotesOf(json).size(), 70U);
}

TEST(SpecTest, NullIsAbsent) {
  Json json = Minimal();
  json["mounts"] = nullptr;
  json["hooks"] = nullptr;
  EXPECT_EQ(TranslateError(json), "(translated)");
}

TEST(SpecTest, RootBecomesTheShare) {
  Json json = Minimal();
  json["root"]["readonly"] = true;
  EXPECT_EQ(Guest(json)["root"]["path"], "/run/wyvern/share/c0-root");
  EXPECT_EQ(Guest(json)["root"]["readonly"], true);
}

TEST(SpecTest, BindMountsBecomeExportsOncePerSource) {
  Json json = Minimal();
  json["mounts"] = Json::parse(R"([
    {"destination":"/a","type":"bind","source":"/srv/x","options":["rbind","ro"]},
    {"destination":"/b","type":"none","source":"/srv/x","options":["bind","rw"]},
    {"destination":"/c","type":"bind","source":"relative","options":["bind","ro"]},
    {"destination":"/proc","type":"proc","source":"proc"}])");
  auto guest = Translate(json);
  ASSERT_TRUE(guest.has_value());
  ASSERT_EQ(guest->volumes.size(), 2U);
  EXPECT_EQ(guest->volumes[0].source, "/srv/x");
  EXPECT_EQ(guest->volumes[0].name, "c0-v0");
  EXPECT_FALSE(guest->volumes[0].read_only);
  EXPECT_TRUE(guest->volumes[0].recursive);
  EXPECT_EQ(guest->volumes[1].source, "/bundle/relative");
  EXPECT_TRUE(guest->volumes[1].read_only);
  EXPECT_FALSE(guest->volumes[1].recursive);
  const Json config = Json::parse(guest->config_json);
  EXPECT_EQ(config["mounts"][1]["source"], "/run/wyvern/share/c0-v0");
  EXPECT_EQ(config["mounts"][2]["source"], "/run/wyvern/share/c0-v1");
  EXPECT_EQ(config["mounts"][3]["type"], "proc");
}

TEST(SpecTest, MountsThatOnlyTheHostCanMakeAreRefused) {
  Json json = Minimal();
  json["mounts"] = Json::parse(R"([{"destination":"/x","type":"ext4","source":"/dev/sda"}])");
  EXPECT_THAT(TranslateError(json), HasSubstr("mounts[0].type: 'ext4' is refused"));
  json["mounts"] = Json::parse(R"([{"destination":"/x","type":"bind"}])");
  EXPECT_THAT(TranslateError(json), HasSubstr("mounts[0].source: missing"));
}

TEST(SpecTest, OtherNamesOfBindAndCgroupPass) {
  Json json = Minimal();
  json["mounts"] = Json::parse(R"([
    {"destination":"/a","type":"rbind","source":"/srv/x"},
    {"destination":"/sys/fs/cgroup","type":"cgroup2","source":"cgroup2"}])");
  const Json mounts = Guest(json)["mounts"];
  EXPECT_EQ(mounts[0]["type"], "bind");
  EXPECT_EQ(mounts[1]["type"], "cgroup2");
}

TEST(SpecTest, NamespacesLoseTheirPathsAndNetworkGoes) {
  Json json = Minimal();
  json["linux"]["namespaces"] = Json::parse(
      R"([{"type":"pid","path":"/proc/1/ns/pid"},{"type":"network","path":"/run/netns/x"},{"type":"uts"}])");
  auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  EXPECT_TRUE(spec->facts().network_namespace);
  EXPECT_EQ(spec->facts().network_namespace_path, "/run/netns/x");
  EXPECT_EQ(Guest(json)["linux"]["namespaces"],
            Json::parse(R"([{"type":"pid"},{"type":"uts"},{"type":"mount"}])"));
  EXPECT_THAT(NotesOf(json), Contains(HasSubstr("linux.namespaces[0].path: ignored")));
}

TEST(SpecTest, WhatAPodSharesIsNamedOrTheGuestsOwn) {
  Json json = Minimal();
  json["hostname"] = "web-0";
  json["linux"]["namespaces"] =
      Json::parse(R"([{"type":"pid","path":"/proc/7/ns/pid"},{"type":"ipc","path":"/proc/7/ns/ipc"},
                      {"type":"uts","path":"/proc/7/ns/uts"},{"type":"mount"}])");
  json["linux"]["sysctl"] = {{"kernel.shmmax", "5"}};
  json["mounts"] = Json::parse(
      R"([{"destination":"/dev/shm","type":"bind","source":"/run/pods/7/shm","options":["rbind","rw"]},
          {"destination":"/other","type":"bind","source":"/run/pods/7/shm","options":["rbind"]}])");
  const auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  EXPECT_EQ(spec->facts().namespace_paths.at("pid"), "/proc/7/ns/pid");
  EXPECT_EQ(spec->facts().shm_source, "/run/pods/7/shm");
  EXPECT_FALSE(spec->facts().stands_for_pod);
  TranslateOptions options;
  options.container_id = "c";
  options.bundle = "/b";
  options.share_prefix = "c7";
  options.namespaces = {{"pid", "/run/wyvern/pod/pid"}, {"ipc", ""}, {"uts", ""}};
  options.shm_source = "/run/pods/7/shm";
  const auto guest = spec->Translate(options);
  ASSERT_TRUE(guest.has_value());
  const Json translated = Json::parse(guest->config_json);
  EXPECT_EQ(translated["linux"]["namespaces"],
            Json::parse(R"([{"type":"pid","path":"/run/wyvern/pod/pid"},{"type":"mount"}])"));
  EXPECT_FALSE(translated.contains("hostname")) << "crun refuses one without a namespace";
  EXPECT_TRUE(translated["linux"]["sysctl"].empty()) << "the same";
  EXPECT_EQ(translated["mounts"][0]["source"], "/run/wyvern/pod/shm");
  EXPECT_EQ(translated["mounts"][1]["source"], "/run/wyvern/share/c7-v0");
}

TEST(SpecTest, FilesOfThePodComeWhereAContainerMountsNothing) {
  Json pause = Minimal();
  pause["annotations"] = {{"io.kubernetes.cri.container-type", "sandbox"}};
  pause["mounts"] = Json::parse(
      R"([{"destination":"/dev/shm","type":"tmpfs","source":"shm"},
          {"destination":"/etc/resolv.conf","type":"bind","source":"/p/resolv.conf"},
          {"destination":"/etc/hosts","type":"bind","source":"/p/hosts"},
          {"destination":"/etc/hostname","type":"bind","source":"relative"},
          {"destination":"/etc/passwd","type":"bind","source":"/p/passwd"}])");
  const auto pod = Spec::Parse(pause.dump());
  ASSERT_TRUE(pod.has_value());
  EXPECT_EQ(pod->facts().shm_source, "");
  EXPECT_THAT(pod->facts().pod_files, ElementsAre(Pair("/etc/hosts", "/p/hosts"),
                                                  Pair("/etc/resolv.conf", "/p/resolv.conf")));
  Json json = Minimal();
  json["root"]["readonly"] = true;
  json["mounts"] = Json::parse(
      R"([{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["size=65536k"]},
          {"destination":"/etc/hosts","type":"bind","source":"/mine","options":["rbind"]}])");
  const auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  EXPECT_TRUE(spec->facts().pod_files.empty()) << "it stands for none";
  TranslateOptions options;
  options.container_id = "c";
  options.bundle = "/b";
  options.share_prefix = "c7";
  options.pod_files = pod->facts().pod_files;
  auto guest = spec->Translate(options);
  ASSERT_TRUE(guest.has_value());
  EXPECT_EQ(Json::parse(guest->config_json)["mounts"][0]["type"], "tmpfs");
  options.shm_is_pods = true;
  guest = spec->Translate(options);
  ASSERT_TRUE(guest.has_value());
  const Json mounts = Json::parse(guest->config_json)["mounts"];
  ASSERT_EQ(mounts.size(), 3U);
  EXPECT_EQ(mounts[0]["source"], "/run/wyvern/pod/shm");
  EXPECT_EQ(mounts[0]["type"], "bind");
  ASSERT_EQ(guest->volumes.size(), 2U);
  EXPECT_EQ(guest->volumes[0].source, "/mine");
  EXPECT_EQ(guest->volumes[1].source, "/p/resolv.conf");
  EXPECT_TRUE(guest->volumes[1].read_only) << "as its root";
}

TEST(SpecTest, ThePausesSysctlsAreTheGuests) {
  Json json = Minimal();
  json["annotations"] = {{"io.kubernetes.cri.container-type", "sandbox"}};
  json["linux"]["namespaces"] = Json::parse(R"([{"type":"ipc"},{"type":"uts"}])");
  json["linux"]["sysctl"] = {{"net.ipv4.ip_forward", "1"}, {"kernel.shm_rmid_forced", "1"}};
  const auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  EXPECT_TRUE(spec->facts().stands_for_pod);
  EXPECT_THAT(spec->facts().sandbox_sysctls,
              ElementsAre("kernel.shm_rmid_forced=1", "net.ipv4.ip_forward=1"));
}

TEST(SpecTest, WhatTheGuestHasItselfIsNoExport) {
  Json json = Minimal();
  json["mounts"] = Json::parse(
      R"([{"destination":"/cache","type":"bind","source":"/pods/cache","options":["rbind","rw"]},
          {"destination":"/config","type":"bind","source":"/pods/config","options":["rbind","rw"]},
          {"destination":"/v","type":"bind","source":"/pods/v","options":["rbind"]}])");
  const auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  TranslateOptions options;
  options.bundle = "/b";
  options.share_prefix = "c7";
  options.guest_sources = {{"/pods/cache", {"/run/wyvern/volumes/e0", false}},
                           {"/pods/config", {"/run/wyvern/volumes/f1/files", true}}};
  const auto guest = spec->Translate(options);
  ASSERT_TRUE(guest.has_value());
  const Json mounts = Json::parse(guest->config_json)["mounts"];
  EXPECT_EQ(mounts[0]["source"], "/run/wyvern/volumes/e0");
  EXPECT_EQ(mounts[0]["options"], Json::parse(R"(["rbind","rw"])"));
  EXPECT_EQ(mounts[1]["source"], "/run/wyvern/volumes/f1/files");
  EXPECT_EQ(mounts[1]["options"], Json::parse(R"(["rbind","ro"])"));
  EXPECT_EQ(mounts[2]["source"], "/run/wyvern/share/c7-v0");
  EXPECT_EQ(guest->volumes.size(), 1U);
}

TEST(SpecTest, SharedPropagationIsRefusedWithTheReason) {
  Json json = Minimal();
  const auto with = [&](const char* word) {
    json["mounts"] = Json::parse(
        R"([{"destination":"/v","type":"bind","source":"/v","options":["rbind","WORD"]}])");
    json["mounts"][0]["options"][1] = word;
    TranslateOptions options;
    options.bundle = "/b";
    options.share_prefix = "c7";
    return Spec::Parse(json.dump())->Translate(options);
  };
  for (const char* word : {"shared", "rshared"}) {
    const auto refused = with(word);
    ASSERT_FALSE(refused.has_value());
    EXPECT_THAT(refused.error().message(), HasSubstr("mounts[0].options: " + std::string(word) +
                                                     " is refused: what a container mounts"));
  }
  EXPECT_TRUE(with("rslave")->volumes[0].follow_host_mounts);
  EXPECT_FALSE(with("rprivate")->volumes[0].follow_host_mounts);
}

TEST(SpecTest, ANetworkOfItsOwnStaysWithItsSysctls) {
  Json json = Minimal();
  json["linux"]["namespaces"] = Json::parse(R"([{"type":"network"}])");
  json["linux"]["sysctl"] = {{"net.ipv4.ip_forward", "1"}, {"vm.max_map_count", "9"}};
  const TranslateOptions options{
      .container_id = "box", .bundle = "/bundle", .share_prefix = "c1", .own_network = true};
  const auto translated = Spec::Parse(json.dump())->Translate(options);
  ASSERT_TRUE(translated.has_value()) << translated.error().message();
  const Json guest = Json::parse(translated->config_json)["linux"];
  EXPECT_EQ(guest["namespaces"], Json::parse(R"([{"type":"network"},{"type":"mount"}])"));
  EXPECT_EQ(guest["sysctl"], Json({{"net.ipv4.ip_forward", "1"}}));
}

const Json kRange = Json::parse(R"([{"containerID":0,"hostID":100000,"size":65536}])");

Json WithUsers() {
  Json json = Minimal();
  json["linux"]["namespaces"] = Json::parse(R"([{"type":"user","path":"/run/pinned/user"}])");
  json["linux"]["uidMappings"] = kRange;
  json["linux"]["gidMappings"] = kRange;
  return json;
}

TEST(SpecTest, UserNamespacesWithoutWholeMappingsAreRefused) {
  Json json = WithUsers();
  json["linux"].erase("gidMappings");
  EXPECT_THAT(ParseError(json), HasSubstr("linux.uidMappings, gidMappings: groups: 0 ranges"));
  json["linux"].erase("uidMappings");
  EXPECT_THAT(ParseError(json), HasSubstr("linux.uidMappings, gidMappings: missing"));
  json = WithUsers();
  json["linux"]["namespaces"] = Json::array();
  EXPECT_THAT(ParseError(json), HasSubstr("refused without a user namespace"));
  json = WithUsers();
  json["linux"]["uidMappings"][0]["size"] = 4294967295;
  EXPECT_THAT(ParseError(json), HasSubstr("users outside: 4294967295 ids from 100000 on"));
  json["linux"]["uidMappings"][0]["size"] = -1;
  EXPECT_THAT(ParseError(json), HasSubstr("linux.uidMappings[0].size: must be"));
  json["linux"]["uidMappings"] = Json::array({kRange[0], kRange[0]});
  EXPECT_THAT(ParseError(json), HasSubstr("0 is mapped twice"));
}

TEST(SpecTest, UserNamespaceIsTheGuests) {
  auto spec = Spec::Parse(WithUsers().dump());
  ASSERT_TRUE(spec.has_value()) << spec.error().message();
  EXPECT_THAT(spec->facts().ids.users, ElementsAre(IdRange{0, 100000, 65536}));
  EXPECT_THAT(spec->facts().sandbox_sysctls, ElementsAre("net.ipv4.ip_unprivileged_port_start=0",
                                                         "net.ipv4.ping_group_range=0 2147483647"));
  const Json guest = Guest(WithUsers())["linux"];
  EXPECT_EQ(guest["uidMappings"], kRange);
  EXPECT_EQ(guest["namespaces"], Json::parse(R"([{"type":"user"},{"type":"mount"}])"));
  TranslateOptions options{.container_id = "box", .bundle = "/bundle", .share_prefix = "c0"};
  options.namespaces = {{"user", "/run/wyvern/pod/user"}};
  const Json pod = Json::parse(spec->Translate(options)->config_json)["linux"];
  EXPECT_EQ(pod["namespaces"][0]["path"], "/run/wyvern/pod/user");
  EXPECT_FALSE(pod.contains("uidMappings")) << "it has its own";
}

TEST(SpecTest, BlockDevicesAreNotHadInAUserNamespace) {
  Json json = WithUsers();
  json["linux"]["devices"] =
      Json::parse(R"([{"path":"/dev/disk","type":"b","major":7,"minor":1}])");
  json["linux"]["resources"]["devices"] =
      Json::parse(R"([{"allow":true,"type":"b","major":7,"minor":1,"access":"rwm"}])");
  EXPECT_THAT(ParseError(json), HasSubstr("linux.devices[0]: a block device cannot be had in a"));
}

TEST(SpecTest, IdMappedMountsThatCannotBeAreRefused) {
  const auto refusal = [](const char* mounts) {
    Json json = Minimal();
    json["mounts"] = Json::parse(mounts);
    return TranslateError(json);
  };
  EXPECT_THAT(refusal(R"([{"destination":"/x","type":"bind","source":"/a","options":["ridmap"]}])"),
              HasSubstr("mounts[0].options: idmap: neither"));
  EXPECT_THAT(
      refusal(
          R"([{"destination":"/x","type":"bind","source":"/a","options":["idmap=uids=0-1-1"]}])"),
      HasSubstr("write the mappings into"));
  EXPECT_THAT(
      refusal(
          R"([{"destination":"/x","type":"bind","source":"/a","uidMappings":[{"containerID":0,"hostID":1,"size":1}]}])"),
      HasSubstr("mounts[0].uidMappings, gidMappings: groups: 0 ranges"));
  EXPECT_THAT(
      refusal(
          R"([{"destination":"/x","type":"tmpfs","source":"t","uidMappings":[{"containerID":0,"hostID":1,"size":1}]}])"),
      HasSubstr("only a bind mount can be id-mapped"));
  Json json = WithUsers();
  json["mounts"] = Json::parse(
      R"([{"destination":"/x","type":"bind","source":"/a","options":["idmap"]},{"destination":"/y","type":"bind","source":"/a"}])");
  EXPECT_THAT(TranslateError(json),
              HasSubstr("mounts[1]: /a is mounted with other ids by mounts[0]"));
}

// The host maps those of exports; of what is in the guest's memory, crun does.
TEST(SpecTest, IdsOfMountsAreMappedWhereTheFilesAre) {
  Json json = WithUsers();
  json["mounts"] = Json::parse(
      R"([{"destination":"/x","type":"bind","source":"/a","options":["rbind","ridmap"]},{"destination":"/y","type":"bind","source":"/b","options":["rbind","ro"]}])");
  json["mounts"][1]["uidMappings"] = Json::parse(R"([{"containerID":0,"hostID":5,"size":1}])");
  json["mounts"][1]["gidMappings"] = kRange;
  auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  TranslateOptions options{.container_id = "box", .bundle = "/bundle", .share_prefix = "c0"};
  auto guest = spec->Translate(options);
  ASSERT_TRUE(guest.has_value()) << guest.error().message();
  ASSERT_EQ(guest->volumes.size(), 2U);
  EXPECT_EQ(guest->volumes[0].ids, spec->facts().ids);
  EXPECT_TRUE(guest->volumes[0].map_recursively);
  EXPECT_THAT(guest->volumes[1].ids.users, ElementsAre(IdRange{0, 5, 1}));
  EXPECT_FALSE(guest->volumes[1].map_recursively);
  Json mounts = Json::parse(guest->config_json)["mounts"];
  EXPECT_EQ(mounts[0]["options"], Json({"rbind"}));
  EXPECT_FALSE(mounts[1].contains("uidMappings"));
  options.guest_sources = {{"/a", {"/run/wyvern/share/c0-v0", false, true}},
                           {"/b", {"/run/wyvern/volumes/v0"}}};
  options.pod_files = {{"/etc/hosts", "/pod/hosts"}};
  guest = spec->Translate(options);
  ASSERT_TRUE(guest.has_value()) << guest.error().message();
  mounts = Json::parse(guest->config_json)["mounts"];
  EXPECT_FALSE(mounts[0].contains("uidMappings"));
  EXPECT_EQ(mounts[1]["uidMappings"][0]["hostID"], 5);
  EXPECT_EQ(mounts[1]["gidMappings"], kRange);
  ASSERT_EQ(guest->volumes.size(), 1U);
  EXPECT_EQ(guest->volumes[0].ids, spec->facts().ids) << "files of the pod, for its containers";
}

TEST(SpecTest, SysctlsAreSplitByNamespace) {
  Json json = Minimal();
  json["linux"]["namespaces"] = Json::parse(R"([{"type":"ipc"}])");
  json["linux"]["sysctl"] = {
      {"net.ipv4.ip_forward", "1"}, {"kernel.shmmax", "5"}, {"vm.max_map_count", "9"}};
  auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  EXPECT_THAT(spec->facts().sandbox_sysctls,
              ElementsAre("net.ipv4.ip_forward=1", "vm.max_map_count=9"));
  EXPECT_EQ(Guest(json)["linux"]["sysctl"], Json({{"kernel.shmmax", "5"}}));
}

TEST(SpecTest, OomScoreIsForTheHostToo) {
  Json json = Minimal();
  EXPECT_FALSE(Spec::Parse(json.dump())->facts().oom_score_adj.has_value());
  for (const int score : {-998, 0, 1000}) {
    json["process"]["oomScoreAdj"] = score;
    EXPECT_EQ(Spec::Parse(json.dump())->facts().oom_score_adj, score);
    EXPECT_EQ(Guest(json)["process"]["oomScoreAdj"], score);
  }
  json["process"]["oomScoreAdj"] = -5000;
  EXPECT_EQ(Spec::Parse(json.dump())->facts().oom_score_adj, -1000);
}

TEST(SpecTest, HostDevicesAreRefusedUnlessEverythingIsAllowed) {
  Json json = Minimal();
  json["linux"]["devices"] = Json::parse(
      R"([{"path":"/dev/null","type":"c","major":1,"minor":3},{"path":"/dev/sda","type":"b","major":8,"minor":0}])");
  EXPECT_THAT(TranslateError(json), HasSubstr("linux.devices[1]: /dev/sda (b 8:0) is refused"));
  json["linux"]["resources"]["devices"] = Json::parse(R"([{"allow":true,"access":"rwm"}])");
  EXPECT_EQ(Guest(json)["linux"]["devices"].size(), 1U);
  EXPECT_THAT(NotesOf(json), Contains(HasSubstr("linux.devices: 1 devices of the host ignored")));
}

TEST(SpecTest, BlockDevicesGetTheGuestsNumbers) {
  Json json = Minimal();
  json["linux"]["devices"] = Json::parse(
      R"([{"path":"/dev/xvda","type":"b","major":8,"minor":16,"fileMode":432},
          {"path":"/dev/again","type":"b","major":8,"minor":16},
          {"path":"/dev/ro","type":"b","major":253,"minor":1}])");
  json["linux"]["resources"]["devices"] = Json::parse(
      R"([{"allow":false,"access":"rwm"},
          {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
          {"allow":true,"type":"b","access":"m"},
          {"allow":true,"type":"b","major":8,"minor":16,"access":"rwm"},
          {"allow":true,"type":"b","major":8,"minor":1,"access":"r"},
          {"allow":true,"type":"b","major":253,"access":"r"},
          {"allow":true,"type":"a","major":8,"minor":2,"access":"r"}])");
  const auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value()) << spec.error().message();
  const std::vector<BlockDevice>& wanted = spec->facts().block_devices;
  ASSERT_EQ(wanted.size(), 2U);
  EXPECT_EQ(wanted[0].number, (DeviceNumber{8, 16}));
  EXPECT_TRUE(wanted[0].writable);
  EXPECT_EQ(wanted[0].field, "linux.devices[0]");
  EXPECT_EQ(wanted[1].number, (DeviceNumber{253, 1}));
  EXPECT_FALSE(wanted[1].writable);

  TranslateOptions options{.container_id = "box", .bundle = "/bundle", .share_prefix = "c0"};
  auto guest = spec->Translate(options);  // before they are attached
  ASSERT_TRUE(guest.has_value()) << guest.error().message();
  EXPECT_TRUE(Json::parse(guest->config_json)["linux"]["devices"].empty());

  options.devices = {{{8, 16}, {254, 32}}, {{253, 1}, {254, 48}}};
  guest = spec->Translate(options);
  ASSERT_TRUE(guest.has_value()) << guest.error().message();
  const Json translated = Json::parse(guest->config_json);
  EXPECT_EQ(translated["linux"]["devices"],
            Json::parse(
                R"([{"path":"/dev/xvda","type":"b","major":254,"minor":32,"fileMode":432},
          {"path":"/dev/again","type":"b","major":254,"minor":32},
          {"path":"/dev/ro","type":"b","major":254,"minor":48}])"));
  EXPECT_EQ(translated["linux"]["resources"]["devices"], Json::parse(
                                                             R"([{"allow":false,"access":"rwm"},
          {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
          {"allow":true,"type":"b","access":"m"},
          {"allow":true,"type":"b","major":254,"minor":32,"access":"rwm"}])"));
  EXPECT_THAT(guest->notes, Contains(HasSubstr("a rule for b 8:1 ignored")));
}

TEST(SpecTest, PrivilegedContainerGetsBlockDevicesThatARuleNames) {
  Json json = Minimal();
  json["linux"]["devices"] = Json::parse(
      R"([{"path":"/dev/sda","type":"b","major":8,"minor":0},{"path":"/dev/sdb","type":"b","major":8,"minor":16}])");
  json["linux"]["resources"]["devices"] = Json::parse(
      R"([{"allow":true,"access":"rwm"},{"allow":true,"type":"b","major":8,"minor":16,"access":"rw"}])");
  const auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  ASSERT_EQ(spec->facts().block_devices.size(), 1U);
  EXPECT_EQ(spec->facts().block_devices[0].path, "/dev/sdb");
  EXPECT_THAT(NotesOf(json), Contains(HasSubstr("linux.devices: 1 devices of the host ignored")));
}

TEST(SpecTest, UpdateKeepsRulesForDevicesThatTheGuestHas) {
  std::vector<std::string> notes;
  const auto resources = TranslateResources(
      R"({"devices":[{"allow":true,"type":"b","major":8,"minor":0,"access":"rw"},{"allow":true,"type":"b","major":8,"minor":1,"access":"rw"}]})",
      {}, {{{8, 0}, {254, 0}}}, &notes);
  ASSERT_TRUE(resources.has_value());
  EXPECT_EQ(Json::parse(*resources)["devices"],
            Json::parse(R"([{"allow":true,"type":"b","major":254,"minor":0,"access":"rw"}])"));
  EXPECT_EQ(notes.size(), 1U);
}

Result<GuestSpec> TranslateWithDisks(const Json& json) {
  WV_TRY(Spec spec, Spec::Parse(json.dump()));
  TranslateOptions options{.container_id = "box", .bundle = "/bundle", .share_prefix = "c7"};
  options.root_on_disk = true;
  options.disk_filesystems = {"ext4", "erofs"};
  return spec.Translate(options);
}

TEST(SpecTest, FileSystemsOfDisksAreMountedByTheGuest) {
  Json json = Minimal();
  json["mounts"] = Json::parse(
      R"([{"destination":"/data","type":"ext4","source":"/dev/sdb","options":["rw","nodev","discard","rslave","commit=5"]},
          {"destination":"/more","type":"ext4","source":"/dev/sdb","options":["ro","discard","commit=5","loop"]},
          {"destination":"/image","type":"erofs","source":"/i.erofs","options":["loop"]}])");
  const auto guest = TranslateWithDisks(json);
  ASSERT_TRUE(guest.has_value()) << guest.error().message();
  ASSERT_EQ(guest->disks.size(), 2U);
  EXPECT_EQ(guest->disks[0].name, "c7-b0");
  EXPECT_EQ(guest->disks[0].filesystem, "ext4");
  EXPECT_FALSE(guest->disks[0].read_only);
  EXPECT_THAT(guest->disks[0].options, ElementsAre("discard", "commit=5"));
  EXPECT_TRUE(guest->disks[1].read_only);
  EXPECT_TRUE(guest->disks[1].options.empty());
  const Json translated = Json::parse(guest->config_json);
  EXPECT_EQ(translated["root"]["path"], "/run/wyvern/disks/c7-root");
  EXPECT_EQ(
      translated["mounts"],
      Json::parse(
          R"([{"destination":"/data","type":"bind","source":"/run/wyvern/disks/c7-b0","options":["bind","rw","nodev","rslave"]},
          {"destination":"/more","type":"bind","source":"/run/wyvern/disks/c7-b0","options":["bind","ro"]},
          {"destination":"/image","type":"bind","source":"/run/wyvern/disks/c7-b1","options":["bind"]}])"));
}

TEST(SpecTest, DisksThatTheGuestCannotMountAreRefused) {
  Json json = Minimal();
  json["mounts"] = Json::parse(R"([{"destination":"/d","type":"xfs","source":"/dev/sdb"}])");
  EXPECT_THAT(TranslateWithDisks(json).error().message(),
              HasSubstr("mounts[0].type: 'xfs' is refused: the guest's kernel has no such"));
  json["mounts"][0]["type"] = "ext4";
  EXPECT_THAT(TranslateError(json), HasSubstr("the guest's kernel has no such file system"));
  json["mounts"][0]["source"] = "relative";
  EXPECT_THAT(TranslateWithDisks(json).error().message(), HasSubstr("mounts[0].source"));
  json["mounts"] = Json::parse(
      R"([{"destination":"/a","type":"ext4","source":"/dev/sdb","options":["commit=1"]},
          {"destination":"/b","type":"ext4","source":"/dev/sdb","options":["commit=2"]}])");
  EXPECT_THAT(
      TranslateWithDisks(json).error().message(),
      HasSubstr("mounts[1]: /dev/sdb is mounted with another type or options by mounts[0]"));
}

TEST(SpecTest, FifosAreNoDevicesOfTheHost) {
  Json json = Minimal();
  json["linux"]["devices"] = Json::parse(R"([{"path":"/dev/fifo","type":"p","fileMode":438}])");
  EXPECT_EQ(Guest(json)["linux"]["devices"], json["linux"]["devices"]);
}

TEST(SpecTest, WhatTheGuestsCrunDoesNotKnowIsLeftOutWithANote) {
  Json json = Minimal();
  json["process"]["scheduler"] = {{"policy", "SCHED_FIFO"}, {"priority", 1}};
  json["process"]["ioPriority"] = {{"class", "IOPRIO_CLASS_IDLE"}, {"priority", 0}};
  json["linux"]["timeOffsets"] = {{"boottime", {{"secs", 1}, {"nanosecs", 0}}}};
  json["linux"]["resources"]["cpu"] = {{"quota", 20000}, {"period", 10000}};
  const std::vector<std::string> notes = NotesOf(json);
  for (const char* field : {"process.scheduler", "process.ioPriority", "linux.timeOffsets"}) {
    EXPECT_THAT(notes, Contains(HasSubstr(std::string(field) + ": ignored: crun 1.8")));
  }
  const Json guest = Guest(json);
  EXPECT_FALSE(guest["process"].contains("scheduler"));
  EXPECT_FALSE(guest["process"].contains("ioPriority"));
  EXPECT_FALSE(guest["linux"].contains("timeOffsets"));
  EXPECT_EQ(guest["linux"]["resources"]["cpu"], Json::parse(R"({"quota":20000,"period":10000})"));
}

TEST(SpecTest, LimitsOfTheContainerAreFacts) {
  Json json = Minimal();
  EXPECT_FALSE(Spec::Parse(json.dump())->facts().limits.memory_limit.has_value());
  EXPECT_FALSE(Spec::Parse(json.dump())->facts().limits.cpu_quota.has_value());
  json["linux"]["resources"] =
      Json::parse(R"({"memory":{"limit":536870912},"cpu":{"quota":150000,"period":50000}})");
  const Facts facts = Spec::Parse(json.dump())->facts();
  EXPECT_EQ(facts.limits.memory_limit, 536870912);
  EXPECT_EQ(facts.limits.cpu_quota, 150000);
  EXPECT_EQ(facts.limits.cpu_period, 50000U);
}

TEST(SpecTest, ResourcesLoseWhatTheGuestHasNot) {
  Json json = Minimal();
  json["linux"]["resources"] =
      Json::parse(R"({"cpu":{"cpus":"0-3","shares":512},"memory":{"limit":1048576,"swappiness":10},
    "blockIO":{"weight":100},"hugepageLimits":[{"pageSize":"1GB","limit":1},{"pageSize":"2MB","limit":2}],"pids":{"limit":64}})");
  const Json resources = Guest(json)["linux"]["resources"];
  EXPECT_EQ(
      resources,
      Json::parse(
          R"({"memory":{"limit":1048576},"hugepageLimits":[{"pageSize":"2MB","limit":2}],"pids":{"limit":64},"unified":{"cpu.weight":"59"}})"));
}

TEST(SpecTest, EmptyLabelsMakeNoNotes) {
  Json json = Minimal();
  json["process"]["selinuxLabel"] = "";
  json["process"]["apparmorProfile"] = "cri-containerd.apparmor.d";
  EXPECT_THAT(NotesOf(json), Contains(HasSubstr("process.apparmorProfile: ignored")));
  EXPECT_THAT(NotesOf(json), testing::Not(Contains(HasSubstr("selinux"))));
  EXPECT_FALSE(Guest(json)["process"].contains("apparmorProfile"));
}

TEST(SpecTest, HooksGoToTheirSide) {
  Json json = Minimal();
  json["hooks"] = Json::parse(
      R"({"prestart":[{"path":"/bin/a","args":["a","b"],"timeout":5}],"startContainer":[{"path":"/bin/g"}],"poststop":[{"path":"/bin/p"}]})");
  auto spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  ASSERT_EQ(spec->facts().hooks.prestart.size(), 1U);
  EXPECT_EQ(spec->facts().hooks.prestart[0].timeout_seconds, 5);
  EXPECT_EQ(spec->facts().hooks.poststop.size(), 1U);
  EXPECT_EQ(Guest(json)["hooks"], Json::parse(R"({"startContainer":[{"path":"/bin/g"}]})"));
  json["hooks"]["prestart"][0]["path"] = "bin/a";
  EXPECT_THAT(ParseError(json), HasSubstr("hooks.prestart[0].path: must be an absolute path"));
  json["hooks"] = Json::parse(
      R"({"createContainer":[{"path":"/bin/g"},{"path":"/bin/h","env":[]},{"path":"/bin/i","env":["A=b"]}]})");
  EXPECT_FALSE(Guest(json).contains("hooks"));
  spec = Spec::Parse(json.dump());
  ASSERT_TRUE(spec.has_value());
  const std::vector<Hook>& hooks = spec->facts().hooks.create_container;
  ASSERT_EQ(hooks.size(), 3U);
  EXPECT_EQ(hooks[0].env, std::nullopt);
  EXPECT_EQ(hooks[1].env, std::vector<std::string>());
  EXPECT_EQ(hooks[2].env, std::vector<std::string>{"A=b"});
}

TEST(SpecTest, HooksOfTheGuestComeBesideThoseOfTheContainer) {
  Json json = Minimal();
  TranslateOptions options;
  options.share_prefix = "c7";
  options.guest_hooks = {
      {"prestart", "/h/prestart/a"}, {"prestart", "/h/prestart/b"}, {"poststop", "/h/poststop/c"}};
  const auto hooks = [&] {
    const auto guest = Spec::Parse(json.dump())->Translate(options);
    return Json::parse(guest->config_json)["hooks"].dump();
  };
  EXPECT_EQ(
      hooks(),
      R"({"poststop":[{"path":"/h/poststop/c"}],"prestart":[{"path":"/h/prestart/a"},{"path":"/h/prestart/b"}]})");
  json["hooks"] = Json::parse(
      R"({"startContainer":[{"path":"/bin/g"}],"prestart":[{"path":"/bin/of-the-host"}]})");
  options.guest_hooks.resize(1);
  EXPECT_EQ(hooks(),
            R"({"prestart":[{"path":"/h/prestart/a"}],"startContainer":[{"path":"/bin/g"}]})");
}

TEST(SpecTest, AnnotationsStayOnTheHost) {
  Json json = Minimal();
  json["annotations"] = {{"run.oci.handler", "krun"}};
  EXPECT_FALSE(Guest(json).contains("annotations"));
}

TEST(SpecTest, CgroupPathIsTheGuests) {
  Json json = Minimal();
  json["linux"]["cgroupsPath"] = "system.slice:docker:abc";
  EXPECT_EQ(Guest(json)["linux"]["cgroupsPath"], "/wyvern/box");
  EXPECT_EQ(Spec::Parse(json.dump())->facts().cgroups_path, "system.slice:docker:abc");
}

TEST(TranslateProcessTest, ChecksAndPrunes) {
  std::vector<std::string> notes;
  auto process = TranslateProcess(
      R"({"args":["sh"],"cwd":"/","apparmorProfile":"x","terminal":false})", true, &notes);
  ASSERT_TRUE(process.has_value());
  EXPECT_EQ(Json::parse(*process), Json::parse(R"({"args":["sh"],"cwd":"/","terminal":true})"));
  EXPECT_EQ(notes.size(), 1U);
  EXPECT_FALSE(TranslateProcess(R"({"args":[],"cwd":"/"})", true, &notes).has_value());
  EXPECT_FALSE(TranslateProcess("{", true, &notes).has_value());
}

TEST(TranslateResourcesTest, NamesTheFieldInErrors) {
  std::vector<std::string> notes;
  auto bad = TranslateResources(R"({"memory":{"limit":"1"}})", {}, {}, &notes);
  ASSERT_FALSE(bad.has_value());
  EXPECT_THAT(bad.error().message(), HasSubstr("linux.resources.memory.limit: must be an integer"));
  EXPECT_TRUE(TranslateResources(R"({"memory":{"limit":1}})", {}, {}, &notes).has_value());
}

TEST(CheckIdTest, RefusesPathsAndLongIds) {
  EXPECT_TRUE(CheckId("a.B-9_x").has_value());
  for (const std::string& id : {std::string(), std::string(".."), std::string("a/b"),
                                std::string("-a"), std::string(129, 'a'), std::string("a\nb")}) {
    EXPECT_FALSE(CheckId(id).has_value()) << id;
  }
}

}  // namespace
}  // namespace wyvern::oci
