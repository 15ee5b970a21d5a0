// cli/digest.h — SHA-256 of files and texts, as OCI writes it: "sha256:<64 hex digits>".
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::cli {

std::string Sha256(std::string_view data);
// Reads from the descriptor's offset to its end.
Result<std::string> Sha256OfFile(FdRef file);
// True for "sha256:" and 64 lower-case hex digits: safe as a file name after the colon.
bool IsSha256(std::string_view digest);

}  // namespace wyvern::cli
