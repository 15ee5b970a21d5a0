#include "jail/filter.h"

#include <seccomp.h>
#include <sys/syscall.h>

#include <cerrno>
#include <memory>

namespace wyvern::jail {

namespace {

struct ContextDeleter {
  void operator()(void* context) const { seccomp_release(context); }
};

using Context = std::unique_ptr<void, ContextDeleter>;

Result<> AddRule(void* context, uint32_t action, const CallRule& rule) {
  std::vector<scmp_arg_cmp> comparisons;
  comparisons.reserve(rule.arguments.size());
  for (const ArgumentRule& argument : rule.arguments) {
    comparisons.push_back(scmp_arg_cmp{.arg = argument.index,
                                       .op = SCMP_CMP_MASKED_EQ,
                                       .datum_a = argument.mask,
                                       .datum_b = argument.value});
  }
  const int error = seccomp_rule_add_array(
      context, action, rule.number, static_cast<unsigned>(comparisons.size()), comparisons.data());
  if (error != 0) {
    return SysErrorFrom(-error, "seccomp rule for call " + std::to_string(rule.number));
  }
  return {};
}

}  // namespace

Result<> InstallFilter(ThreadKind kind) {
  const Context context(seccomp_init(SCMP_ACT_TRAP));
  if (!context) {
    return Fail(Code::kResourceExhausted, "seccomp_init failed");
  }
  // A binary search over the call number instead of a list: 100 rules cost 7 steps.
  seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  // no_new_privs is the caller's promise; not set here, so that a mistake shows.
  seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_NNP, 0);
  seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  for (const CallRule& rule : AllowedCalls(kind)) {
    WV_TRY_VOID(AddRule(context.get(), SCMP_ACT_ALLOW, rule));
  }
  for (const int number : LethalCalls()) {
    WV_TRY_VOID(AddRule(context.get(), SCMP_ACT_KILL_PROCESS, CallRule{number, {}}));
  }
  // glibc falls back to clone, whose flags a filter can see.
  WV_TRY_VOID(AddRule(context.get(), SCMP_ACT_ERRNO(ENOSYS), CallRule{SYS_clone3, {}}));
  // Rings exist before the filter: io_uring would otherwise be a way around it.
  WV_TRY_VOID(AddRule(context.get(), SCMP_ACT_ERRNO(EPERM), CallRule{SYS_io_uring_setup, {}}));
  // Libraries look for files in /proc, /sys and /etc and go on without them; there is nothing in our root anyway.
  for (const int number :
       {SYS_openat, SYS_open, SYS_readlink, SYS_readlinkat, SYS_access, SYS_faccessat2, SYS_stat}) {
    WV_TRY_VOID(AddRule(context.get(), SCMP_ACT_ERRNO(ENOENT), CallRule{number, {}}));
  }
  const int error = seccomp_load(context.get());
  if (error != 0) {
    return SysErrorFrom(-error, "load the seccomp filter");
  }
  return {};
}

}  // namespace wyvern::jail
