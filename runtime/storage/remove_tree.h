// storage/remove_tree.h — removal of a directory below which mounts may be: what is mounted is the user's, not ours to remove.
// Errors:  FAILED_PRECONDITION: something is mounted there, in this mount namespace. Nothing was removed, unless it was mounted meanwhile; what
//          is mounted stays as it is even then.
// Threads: any. One descriptor or two at a time, however deep the tree.
#pragma once

#include <string>

#include "base/error.h"

namespace wyvern::runtime {

// Removes the directory `path` and all below it. Symlinks inside and at the end are not followed; one at the end is an error. Not there: success.
Result<> RemoveTree(const std::string& path);

}  // namespace wyvern::runtime
