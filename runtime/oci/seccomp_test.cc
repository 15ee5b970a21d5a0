// The rewritten profiles are loaded by libseccomp into a child, which then tries the sockets.
#include "oci/seccomp.h"

#include <gtest/gtest.h>
#include <seccomp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <map>

namespace wyvern::oci {
namespace {

const std::map<std::string, scmp_compare> comparisons = {
    {"SCMP_CMP_NE", SCMP_CMP_NE},
    {"SCMP_CMP_LT", SCMP_CMP_LT},
    {"SCMP_CMP_LE", SCMP_CMP_LE},
    {"SCMP_CMP_EQ", SCMP_CMP_EQ},
    {"SCMP_CMP_GE", SCMP_CMP_GE},
    {"SCMP_CMP_GT", SCMP_CMP_GT},
    {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ}};

uint32_t Action(const std::string& name, uint32_t error) {
  return name == "SCMP_ACT_ALLOW" ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(error);
}

bool AddRule(scmp_filter_ctx context, const Json& rule, uint32_t default_action) {
  std::vector<scmp_arg_cmp> args;
  if (rule.contains("args")) {
    for (const Json& a : rule["args"]) {
      args.push_back({a["index"].get<unsigned>(), comparisons.at(a["op"]),
                      a["value"].get<uint64_t>(), a.value("valueTwo", uint64_t{0})});
    }
  }
  const uint32_t action = Action(rule["action"], rule.value("errnoRet", uint32_t{EPERM}));
  bool ok = true;
  for (const Json& name : rule["names"]) {
    const int number = seccomp_syscall_resolve_name(name.get<std::string>().c_str());
    ok &= action == default_action ||
          seccomp_rule_add_array(context, action, number, static_cast<unsigned>(args.size()),
                                 args.data()) == 0;
  }
  return ok;
}

// errno of socket(family) under the profile; 0 when it succeeded; -1 when the profile could not be loaded.
int SocketUnder(Json section, unsigned long family) {
  EXPECT_TRUE(DenyVsock(section, "x86_64").has_value());
  const Json profile = section["seccomp"];
  const pid_t child = fork();
  if (child == 0) {
    const uint32_t default_action = Action(profile["defaultAction"], EPERM);
    scmp_filter_ctx context = seccomp_init(default_action);
    bool ok = context != nullptr;
    for (const Json& rule : profile["syscalls"]) {
      ok &= AddRule(context, rule, default_action);
    }
    if (!ok || seccomp_load(context) != 0) {
      _exit(255);
    }
    _exit(syscall(SYS_socket, family, SOCK_STREAM, 0) >= 0 ? 0 : errno);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) != 255 ? WEXITSTATUS(status) : -1;
}

// A profile that denies all but what the child (and a sanitizer in it) needs, and socket as `rule` says.
Json AllowList(const Json& rule) {
  Json base = {{"names",
                {"exit_group", "write", "close", "fstat", "futex", "rt_sigreturn", "mmap", "munmap",
                 "sigaltstack"}},
               {"action", "SCMP_ACT_ALLOW"}};
  return {
      {"seccomp", {{"defaultAction", "SCMP_ACT_ERRNO"}, {"syscalls", Json::array({base, rule})}}}};
}

constexpr unsigned long kTruncated = 0x100000028UL;  // (int)kTruncated is AF_VSOCK

struct Case {
  const char* name;
  Json section;
};

std::vector<Case> Profiles() {
  const Json allow = Json::parse(R"({"names":["socket","socketcall"],"action":"SCMP_ACT_ALLOW"})");
  const Json not_vsock = Json::parse(
      R"({"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"}]})");
  const Json not_five = Json::parse(
      R"({"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":5,"op":"SCMP_CMP_NE"}]})");
  const Json either = Json::parse(
      R"({"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":40,"op":"SCMP_CMP_GE"}]})");
  const Json deny_allows = Json::parse(
      R"({"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}})");
  return {{"none", Json::object()},
          {"allow", AllowList(allow)},
          {"not vsock", AllowList(not_vsock)},
          {"not five", AllowList(not_five)},
          {"either", AllowList(either)},
          {"default allow", deny_allows}};
}

TEST(SeccompTest, VsockIsDeniedUnderEveryProfile) {
  for (const Case& c : Profiles()) {
    EXPECT_EQ(SocketUnder(c.section, kAfVsock), EAFNOSUPPORT) << c.name;
    const int truncated = SocketUnder(c.section, kTruncated);
    EXPECT_TRUE(truncated == EAFNOSUPPORT || truncated == EPERM) << c.name << ": " << truncated;
  }
}

TEST(SeccompTest, UnixSocketsStayAllowed) {
  for (const Case& c : Profiles()) {
    EXPECT_EQ(SocketUnder(c.section, AF_UNIX), 0) << c.name;
  }
}

TEST(SeccompTest, SocketDeniedByTheProfileStaysDenied) {
  EXPECT_EQ(SocketUnder(AllowList(Json::parse(R"({"names":["socket"],"action":"SCMP_ACT_ERRNO"})")),
                        AF_UNIX),
            EPERM);
}

TEST(SeccompTest, SocketcallIsNeverAllowed) {
  Json section = AllowList(Json::parse(R"({"names":["socketcall"],"action":"SCMP_ACT_ALLOW"})"));
  ASSERT_TRUE(DenyVsock(section, "x86_64").has_value());
  for (const Json& rule : section["seccomp"]["syscalls"]) {
    EXPECT_FALSE(rule["action"] == "SCMP_ACT_ALLOW" &&
                 rule["names"].dump().find("socketcall") != std::string::npos);
  }
}

TEST(SeccompTest, NotifyIsRefused) {
  Json section = AllowList(Json::parse(R"({"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"})"));
  EXPECT_FALSE(DenyVsock(section, "x86_64").has_value());
}

TEST(SeccompTest, BadArgumentIndexIsError) {
  Json section = AllowList(Json::parse(
      R"({"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":9,"value":1,"op":"SCMP_CMP_EQ"}]})"));
  EXPECT_FALSE(DenyVsock(section, "x86_64").has_value());
}

TEST(SeccompTest, ForeignArchitecturesGo) {
  Json section = {{"seccomp",
                   {{"defaultAction", "SCMP_ACT_ALLOW"},
                    {"architectures", {"SCMP_ARCH_S390X", "SCMP_ARCH_X86_64"}}}}};
  ASSERT_TRUE(DenyVsock(section, "x86_64").has_value());
  EXPECT_EQ(section["seccomp"]["architectures"], Json::array({"SCMP_ARCH_X86_64"}));
}

}  // namespace
}  // namespace wyvern::oci
