#include "oci/seccomp.h"

#include <fmt/format.h>

#include <cerrno>
#include <map>

namespace wyvern::oci {
namespace {

constexpr uint64_t kFamilies = 64;  // AF_MAX is 46 in Linux 6.12
constexpr uint64_t kIntMask = 0xffffffffU;

bool Allows(const std::string& action) {
  return action == "SCMP_ACT_ALLOW" || action == "SCMP_ACT_LOG" || action == "SCMP_ACT_TRACE" ||
         action == "SCMP_ACT_NOTIFY";
}

struct Arg {
  uint64_t index, value, value_two;
  std::string op;
};

uint64_t GetU64(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number_unsigned() ? it->get<uint64_t>() : 0;
}

Arg ParseArg(const Json& json) {
  return {GetU64(json, "index"), GetU64(json, "value"), GetU64(json, "valueTwo"),
          GetString(json, "op")};
}

bool Matches(const Arg& arg, uint64_t family) {
  if (arg.op == "SCMP_CMP_NE") {
    return family != arg.value;
  }
  if (arg.op == "SCMP_CMP_LT") {
    return family < arg.value;
  }
  if (arg.op == "SCMP_CMP_LE") {
    return family <= arg.value;
  }
  if (arg.op == "SCMP_CMP_EQ") {
    return family == arg.value;
  }
  if (arg.op == "SCMP_CMP_GE") {
    return family >= arg.value;
  }
  if (arg.op == "SCMP_CMP_GT") {
    return family > arg.value;
  }
  return (family & arg.value) == arg.value_two;  // SCMP_CMP_MASKED_EQ
}

Json FamilyArg(const char* op, uint64_t value) {
  return {{"index", 0}, {"value", value}, {"op", op}};
}

Json SocketRule(const Json& rule, Json args, Json family) {
  Json out = rule;
  out["names"] = Json::array({"socket"});
  args.push_back(std::move(family));
  out["args"] = std::move(args);
  return out;
}

// One allowing rule for socket() whose arguments all hold together, rewritten without AF_VSOCK and without values beyond 32 bits.
void AppendConjunction(const Json& rule, const Json& args, Json& out) {
  Json others = Json::array();
  std::optional<Arg> family;
  for (const Json& item : args) {
    if (GetU64(item, "index") == 0) {
      family = ParseArg(item);
    } else {
      others.push_back(item);
    }
  }
  const bool all_low =
      !family.has_value() || (family->op == "SCMP_CMP_NE" && family->value == kAfVsock);
  uint64_t first = 0;
  if (all_low) {
    out.push_back(SocketRule(rule, others, FamilyArg("SCMP_CMP_LT", kAfVsock)));
    first = kAfVsock + 1;
  }
  for (uint64_t n = first; n < kFamilies; ++n) {
    if (n != kAfVsock && (!family.has_value() || Matches(*family, n))) {
      out.push_back(SocketRule(rule, others, FamilyArg("SCMP_CMP_EQ", n)));
    }
  }
}

// runc and crun read several conditions on one argument as alternatives, each a rule of its own.
void AppendSocketRules(const Json& rule, Json& out) {
  const Json* args = Child(rule, "args");
  if (args == nullptr) {
    AppendConjunction(rule, Json::array(), out);
    return;
  }
  std::map<uint64_t, int> seen;
  bool repeated = false;
  for (const Json& item : *args) {
    repeated |= ++seen[GetU64(item, "index")] > 1;
  }
  if (!repeated) {
    AppendConjunction(rule, *args, out);
    return;
  }
  for (const Json& item : *args) {
    AppendConjunction(rule, Json::array({item}), out);
  }
}

Json Architectures(std::string_view arch) {
  // The native one only. With 32-bit x86 in the same filter libseccomp 2.5 maps socket() and socketcall() to each other: rules on
  // socket's arguments are then refused as duplicates (EEXIST) or, beside a rule for socketcall, not enforced at all. Calls of another
  // architecture end the process, so they are no way around the denial.
  if (arch == "aarch64") {
    return Json::array({"SCMP_ARCH_AARCH64"});
  }
  if (arch == "riscv64") {
    return Json::array({"SCMP_ARCH_RISCV64"});
  }
  return Json::array({"SCMP_ARCH_X86_64"});
}

// A profile made for several machines names foreign ones; libseccomp cannot mix byte orders and each costs filter length.
Json NativeArchitectures(const Json* wanted, std::string_view arch) {
  Json native = Architectures(arch);
  if (wanted == nullptr) {
    return native;
  }
  Json out = Json::array();
  for (const Json& item : *wanted) {
    for (const Json& known : native) {
      if (item == known) {
        out.push_back(item);
        break;
      }
    }
  }
  return out.empty() ? native : out;
}

Json DenyRule(const char* name, int error) {
  return {{"names", Json::array({name})}, {"action", "SCMP_ACT_ERRNO"}, {"errnoRet", error}};
}

// Explicit denials on top of what the rules leave to the default action.
void AppendDenials(bool socket_unconditionally_denied, Json& out) {
  if (!socket_unconditionally_denied) {
    Json vsock = DenyRule("socket", EAFNOSUPPORT);
    vsock["args"] = Json::array({{{"index", 0},
                                  {"value", kIntMask},
                                  {"valueTwo", kAfVsock},
                                  {"op", "SCMP_CMP_MASKED_EQ"}}});
    out.push_back(std::move(vsock));
  }
}

Result<> CheckRule(const Json& rule, size_t index) {
  if (GetString(rule, "action") == "SCMP_ACT_NOTIFY") {
    return Fail(Code::kInvalidArgument,
                fmt::format("linux.seccomp.syscalls[{}].action: SCMP_ACT_NOTIFY is refused: a "
                            "seccomp agent on the host cannot serve "
                            "processes of the guest",
                            index));
  }
  const Json* args = Child(rule, "args");
  if (args == nullptr) {
    return {};
  }
  for (size_t i = 0; i < args->size(); ++i) {
    const std::string op = GetString((*args)[i], "op");
    if (GetU64((*args)[i], "index") > 5 || !op.starts_with("SCMP_CMP_")) {
      return Fail(Code::kInvalidArgument, fmt::format("linux.seccomp.syscalls[{}].args[{}]: index "
                                                      "must be 0..5 and op an SCMP_CMP_… operator",
                                                      index, i));
    }
  }
  return {};
}

Result<Json> RewriteRules(const Json& rules) {
  Json out = Json::array();
  bool denied = false;
  for (size_t i = 0; i < rules.size(); ++i) {
    const Json& rule = rules[i];
    WV_TRY_VOID(CheckRule(rule, i));
    const bool allows = Allows(GetString(rule, "action"));
    Json names = Json::array();
    bool socket = false;
    for (const std::string& name : GetStrings(rule, "names")) {
      if (name == "socket") {
        socket = true;
      } else if (name != "socketcall" || !allows) {
        names.push_back(name);
      }
    }
    if (!names.empty()) {
      Json rest = rule;
      rest["names"] = std::move(names);
      out.push_back(std::move(rest));
    }
    if (!socket) {
      continue;
    }
    if (allows) {
      AppendSocketRules(rule, out);
    } else {
      Json keep = rule;
      keep["names"] = Json::array({"socket"});
      const Json* args = Child(keep, "args");
      denied |= args == nullptr || args->empty();
      out.push_back(std::move(keep));
    }
  }
  AppendDenials(denied, out);
  return out;
}

}  // namespace

Result<> DenyVsock(Json& linux_section, std::string_view arch) {
  Json* profile = Child(linux_section, "seccomp");
  if (profile == nullptr) {
    linux_section["seccomp"] = {{"defaultAction", "SCMP_ACT_ALLOW"}};
    profile = &linux_section["seccomp"];
  }
  const std::string action = GetString(*profile, "defaultAction");
  if (action.empty()) {
    return Fail(Code::kInvalidArgument, "linux.seccomp.defaultAction: missing");
  }
  if (action == "SCMP_ACT_NOTIFY") {
    return Fail(Code::kInvalidArgument,
                "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY is refused: no agent on the host can "
                "serve the guest");
  }
  (*profile)["architectures"] = NativeArchitectures(Child(*profile, "architectures"), arch);
  const Json* rules = Child(*profile, "syscalls");
  WV_TRY(Json rewritten, RewriteRules(rules == nullptr ? Json::array() : *rules));
  (*profile)["syscalls"] = std::move(rewritten);
  return {};
}

}  // namespace wyvern::oci
