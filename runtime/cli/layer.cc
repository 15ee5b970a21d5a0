#include "cli/layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <memory>
#include <string_view>

#include "base/cleanup.h"

namespace wyvern::cli {

namespace {

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";
// Without ARCHIVE_EXTRACT_FFLAGS: a file that an image makes immutable could not be removed.
constexpr int kExtractFlags = ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_OWNER |
                              ARCHIVE_EXTRACT_XATTR | ARCHIVE_EXTRACT_ACL | ARCHIVE_EXTRACT_UNLINK |
                              ARCHIVE_EXTRACT_SECURE_SYMLINKS | ARCHIVE_EXTRACT_SECURE_NODOTDOT |
                              ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS;

struct ReadDeleter {
  void operator()(archive* reader) const { archive_read_free(reader); }
};

struct WriteDeleter {
  void operator()(archive* writer) const { archive_write_free(writer); }
};

using Reader = std::unique_ptr<archive, ReadDeleter>;
using Writer = std::unique_ptr<archive, WriteDeleter>;

tl::unexpected<Error> ArchiveError(archive* from, const std::string& what) {
  const char* text = archive_error_string(from);
  return Fail(Code::kDataLoss, what + ": " + (text != nullptr ? text : "damaged archive"));
}

// What the disk refuses has its errno beside a text that says only what was tried.
tl::unexpected<Error> DiskError(archive* writer, const std::string& name) {
  const char* text = archive_error_string(writer);
  const std::string what = name + ": " + (text != nullptr ? text : "cannot be written");
  const int error = archive_errno(writer);
  return error > 0 ? SysErrorFrom(error, what) : Fail(Code::kDataLoss, what);
}

Result<Reader> OpenArchive(FdRef file) {
  Reader reader(archive_read_new());
  // Not all that libarchive knows: for some it runs programs of the host.
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_filter_zstd(reader.get());
  archive_read_support_filter_xz(reader.get());
  archive_read_support_filter_bzip2(reader.get());
  archive_read_support_format_tar(reader.get());
  if (archive_read_open_fd(reader.get(), file.get(), 256U << 10U) != ARCHIVE_OK) {
    return ArchiveError(reader.get(), "not a tar archive");
  }
  return reader;
}

// Opens a directory below `root` without following any symlink.
Result<UniqueFd> OpenBelow(FdRef root, const std::string& path) {
  open_how how{};
  how.flags = O_DIRECTORY | O_RDONLY | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  UniqueFd fd(static_cast<int>(
      syscall(SYS_openat2, root.get(), path.empty() ? "." : path.c_str(), &how, sizeof(how))));
  if (!fd.valid()) {
    return SysError("open " + path);
  }
  return fd;
}

struct Split {
  std::string parent;
  std::string name;
};

Split SplitPath(std::string path) {
  while (!path.empty() && path.back() == '/') {
    path.pop_back();
  }
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) {
    return {"", path};
  }
  return {path.substr(0, slash), path.substr(slash + 1)};
}

Result<> MakeWhiteout(FdRef root, const Split& path) {
  WV_TRY(const UniqueFd parent, OpenBelow(root, path.parent));
  if (path.name == kOpaque) {
    if (fsetxattr(parent.get(), "trusted.overlay.opaque", "y", 1, 0) != 0) {
      return SysError("mark " + path.parent + " as opaque");
    }
    return {};
  }
  const std::string hidden = path.name.substr(kWhiteout.size());
  if (hidden.empty() || hidden == "." || hidden == "..") {
    return Fail(Code::kDataLoss, "a whiteout without a name");
  }
  if (mknodat(parent.get(), hidden.c_str(), S_IFCHR, makedev(0, 0)) != 0 && errno != EEXIST) {
    return SysError("whiteout " + hidden);
  }
  return {};
}

Result<> CopyEntry(archive* reader, archive* writer, archive_entry* entry) {
  const std::string name = archive_entry_pathname(entry);
  if (archive_write_header(writer, entry) < ARCHIVE_WARN) {
    return DiskError(writer, name);
  }
  for (;;) {
    const void* block = nullptr;
    size_t size = 0;
    la_int64_t offset = 0;
    const int got = archive_read_data_block(reader, &block, &size, &offset);
    if (got == ARCHIVE_EOF) {
      break;
    }
    if (got < ARCHIVE_WARN) {
      return ArchiveError(reader, name);
    }
    // A full disk is only a warning to libarchive, which then makes the file as long as it should be, of zeros.
    if (archive_write_data_block(writer, block, size, offset) < ARCHIVE_OK) {
      return DiskError(writer, name);
    }
  }
  if (archive_write_finish_entry(writer) < ARCHIVE_WARN) {
    return DiskError(writer, name);
  }
  return {};
}

// libarchive's disk writer works relative to the working directory; it is restored at the end.
Result<> UnpackHere(archive* reader, FdRef root, bool layer) {
  const Writer writer(archive_write_disk_new());
  archive_write_disk_set_options(writer.get(), kExtractFlags);
  archive_write_disk_set_standard_lookup(writer.get());
  for (;;) {
    archive_entry* entry = nullptr;
    const int got = archive_read_next_header(reader, &entry);
    if (got == ARCHIVE_EOF) {
      break;
    }
    if (got < ARCHIVE_WARN) {
      return ArchiveError(reader, "read the archive");
    }
    const char* name = archive_entry_pathname(entry);
    if (name == nullptr) {
      return Fail(Code::kDataLoss, "an archive entry without a name");
    }
    const Split path = SplitPath(name);
    if (layer && path.name.starts_with(kWhiteout)) {
      WV_TRY_VOID(MakeWhiteout(root, path));
      continue;
    }
    const auto type = archive_entry_filetype(entry);
    if (!layer && type != AE_IFREG && type != AE_IFDIR) {
      continue;
    }
    // Owners are numbers: names would be looked up on this host.
    archive_entry_set_uname(entry, nullptr);
    archive_entry_set_gname(entry, nullptr);
    WV_TRY_VOID(CopyEntry(reader, writer.get(), entry));
  }
  if (archive_write_close(writer.get()) != ARCHIVE_OK) {
    return ArchiveError(writer.get(), "finish unpacking");
  }
  return {};
}

Result<> Unpack(FdRef file, const std::string& directory, bool layer) {
  WV_TRY(const Reader reader, OpenArchive(file));
  WV_TRY(const UniqueFd root, Open(directory, O_DIRECTORY | O_RDONLY));
  WV_TRY(const UniqueFd before, Open(".", O_DIRECTORY | O_PATH));
  if (fchdir(root.get()) != 0) {
    return SysError("enter " + directory);
  }
  const Cleanup back([&before] { (void)!fchdir(before.get()); });
  return UnpackHere(reader.get(), root, layer);
}

}  // namespace

Result<> UnpackLayer(FdRef archive, const std::string& directory) {
  return Unpack(archive, directory, true);
}

Result<> UnpackArchive(FdRef archive, const std::string& directory) {
  return Unpack(archive, directory, false);
}

}  // namespace wyvern::cli
