#include "guest/initramfs.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <memory>

namespace wyvern::guest {

namespace {

struct WriteDeleter {
  void operator()(archive* writer) const { archive_write_free(writer); }
};

struct EntryDeleter {
  void operator()(archive_entry* entry) const { archive_entry_free(entry); }
};

class Cpio {
 public:
  Cpio() : writer_(archive_write_new()) {}

  Result<> Open() {
    archive_write_set_format_cpio_newc(writer_.get());
    archive_write_set_bytes_in_last_block(writer_.get(), 1);
    return Check(archive_write_open(writer_.get(), &out_, nullptr, &Append, nullptr));
  }

  Result<> Add(const std::string& path, mode_t mode, std::string_view bytes, dev_t device = 0) {
    const std::unique_ptr<archive_entry, EntryDeleter> entry(archive_entry_new());
    archive_entry_set_pathname(entry.get(), path.c_str());
    archive_entry_set_mode(entry.get(), mode);
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(bytes.size()));
    archive_entry_set_nlink(entry.get(), 1);
    archive_entry_set_ino64(entry.get(), ++inode_);  // equal ones would be hard links
    archive_entry_set_mtime(entry.get(), 0, 0);
    archive_entry_set_rdev(entry.get(), device);
    WV_TRY_VOID(Check(archive_write_header(writer_.get(), entry.get())));
    if (archive_write_data(writer_.get(), bytes.data(), bytes.size()) !=
        static_cast<la_ssize_t>(bytes.size())) {
      return Check(ARCHIVE_FATAL);
    }
    return {};
  }

  Result<std::string> Finish() {
    WV_TRY_VOID(Check(archive_write_close(writer_.get())));
    return std::move(out_);
  }

 private:
  static la_ssize_t Append(archive* /*writer*/, void* out, const void* data, size_t size) {
    static_cast<std::string*>(out)->append(static_cast<const char*>(data), size);
    return static_cast<la_ssize_t>(size);
  }

  Result<> Check(int answer) {
    if (answer == ARCHIVE_OK) {
      return {};
    }
    const char* text = archive_error_string(writer_.get());
    return Fail(Code::kInternal,
                std::string("the initramfs cannot be made: ") + (text != nullptr ? text : "?"));
  }

  std::string out_;
  std::unique_ptr<archive, WriteDeleter> writer_;  // writes to out_: it goes first
  int64_t inode_ = 0;
};

}  // namespace

Result<std::string> BuildInitramfs(std::string_view agent, std::span<const Module> modules) {
  Cpio cpio;
  WV_TRY_VOID(cpio.Open());
  WV_TRY_VOID(cpio.Add("dev", S_IFDIR | 0755, {}));
  // The kernel opens it for /init's messages before anything is mounted.
  WV_TRY_VOID(cpio.Add("dev/console", S_IFCHR | 0600, {}, makedev(5, 1)));
  WV_TRY_VOID(cpio.Add("modules", S_IFDIR | 0755, {}));
  std::string list;
  for (const Module& module : modules) {
    const std::string file = module.name + ".ko";
    WV_TRY_VOID(cpio.Add("modules/" + file, S_IFREG | 0644, module.bytes));
    list += file + (module.required ? " required\n" : " optional\n");
  }
  WV_TRY_VOID(cpio.Add("modules/list", S_IFREG | 0644, list));
  WV_TRY_VOID(cpio.Add("init", S_IFREG | 0755, agent));
  return cpio.Finish();
}

}  // namespace wyvern::guest
