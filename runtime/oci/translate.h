// oci/translate.h — the parts of the translation, each on its own section of the pruned document. Internal to oci/.
#pragma once

#include "base/error.h"
#include "oci/json.h"
#include "oci/spec.h"

namespace wyvern::oci {

// Checks at Parse time: what must be there.
Result<> CheckProcess(const Json& process, std::string_view where);

// mounts[]: bind sources become exports, other types pass if the guest can mount them itself.
Result<std::vector<Export>> TranslateMounts(Json& document, const TranslateOptions& options);

// linux.*: namespaces, sysctl, devices, resources, seccomp, cgroupsPath.
Result<> TranslateLinux(Json& document, const TranslateOptions& options, Notes& notes);
void TranslateResourcesSection(Json& resources, Notes& notes);

// "net.*" and everything that no namespace of the container holds.
std::vector<std::string> SandboxSysctls(const Json& document);

}  // namespace wyvern::oci
