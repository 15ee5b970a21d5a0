// install/install.h — `wyvern install` and `uninstall`: programs, guest, configuration and containerd's handler, put in place and taken away.
// Shape:   /usr/lib/wyvern/<version>/ has one version whole; /usr/lib/wyvern/current is a link to it, which an upgrade renames over; all that
//          others know (/usr/bin/wyvern, /usr/libexec/wyvern, /usr/share/wyvern, …) are links through `current`, relative ones, so that
//          they hold also as seen from outside of a root.
// Upgrade: sandboxes that live go on with the version that they were started from. Its directory goes by a later install: never in the run that
//          replaced it, never while a process runs out of it.
// Again:   what is there is kept, what is missing is made; after an interruption, too (install/manifest.h).
// Errors:  FAILED_PRECONDITION, ALREADY_EXISTS (a file of somebody else's in the way), NOT_FOUND (no containerd, no payload): nothing was
//          touched. ABORTED: another install runs. The rest is the system's: what is done so far is in the manifest.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "install/containerd.h"
#include "install/tree.h"

namespace wyvern::cli {

struct InstallOptions {
  std::string root;  // before every path; the verb changes its root instead, tests do not
  std::string containerd_config = kContainerdConfig;
  bool containerd = true;  // false: leave containerd alone
};

struct InstallReport {
  std::string version;
  std::vector<std::string> lines;  // what was done, and what was not and why
  bool restart_containerd = false;
};

Result<InstallReport> Install(const Payload& payload, const InstallOptions& options);

// FAILED_PRECONDITION: sandboxes live, or not installed by Install. What was changed since stays, and a line says so.
Result<InstallReport> Uninstall(const InstallOptions& options);

}  // namespace wyvern::cli
