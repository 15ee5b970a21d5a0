// agent/pod_init.h — the first process of a pid namespace that the containers of a pod share: what a pause container is elsewhere.
// Shape:   the agent starts a copy of itself (kPodInitArgument), which makes the namespace, leaves one process in it and ends.
// Trust:   containers see it as pid 1, and those with CAP_SYS_PTRACE may do with it what they like: it has an empty root of its own, no
//          descriptor and no capability, so that nothing of the guest is to be had through it.
#pragma once

#include <string>

namespace wyvern::agent {

// argv[1] of the copy; argv[2]: an empty directory's path, or any other that may be covered by a mount; argv[3] and [4], if there: users and
// groups of a user namespace (FormatIdRanges), in which it makes the other, and one of System V IPC, and whose root it is.
inline constexpr char kPodInitArgument[] = "--pod-init";

// The copy. Answers to kAnswerFd as AskSelf wants it: the number of the process that it leaves behind. Returns the exit status.
int RunPodInit(const std::string& directory, const std::string& users, const std::string& groups);

}  // namespace wyvern::agent
