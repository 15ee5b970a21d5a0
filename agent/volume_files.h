// agent/volume_files.h — the files of a ConfigMap, Secret or the like in a tmpfs of the guest, replaced as kubelet does it on the host: whoever
//                        watches a file there (inotify) sees what he would see on a node without a virtual machine.
// Shape:   <top>/files is what containers mount: <version>/…, ..data → <version>, <key> → ..data/<key>. <top>/new is nobody's but ours: a version is
//          made there, moved to files/ as a whole, and what is old is moved back there to be removed.
// Trust:   containers are given files/ read-only, but a privileged one can make it writable for itself and put there what it likes, while we
//          work. So nothing is opened, followed or removed below files/: entries are renamed, in and out, by their names alone.
// Errors:  those of the kernel; ABORTED: a container keeps putting something in the way. The old version is then there still, or the new one.
// Threads: one at a time for a volume.
#pragma once

#include <string>

#include "agent/volume_request.h"

namespace wyvern::agent {

// Makes `top`/files and `top`/new in an empty directory.
Result<> MakeFilesVolume(const std::string& top, const VolumeOwner& owner);
Result<> ReplaceVolumeFiles(const std::string& top, const VolumeContent& content);

// Mode and owner of a directory or file; symlinks are refused.
Result<> SetOwner(const std::string& path, const VolumeOwner& owner);

}  // namespace wyvern::agent
