#include "stdio/fifo.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

namespace wyvern::shim {

namespace {

Result<bool> IsFifo(FdRef fd) {
  WV_TRY(const struct stat info, Fstat(fd));
  return S_ISFIFO(info.st_mode);
}

}  // namespace

Result<StdinEnds> OpenStdin(const std::string& path) {
  StdinEnds ends;
  WV_TRY(ends.reader, Open(path, O_RDONLY | O_NONBLOCK));
  WV_TRY(const bool fifo, IsFifo(ends.reader));
  if (fifo) {
    // There is a reader now: this cannot block.
    WV_TRY(ends.own_writer, Open(path, O_WRONLY | O_NONBLOCK));
  }
  return ends;
}

Result<std::optional<OutputEnds>> TryOpenOutput(const std::string& path) {
  // ENXIO: a FIFO without a reader. A client that is blocked in open(O_RDONLY) counts as one.
  auto writer = Open(path, O_WRONLY | O_NONBLOCK);
  if (!writer) {
    if (writer.error().sys_errno() == ENXIO) {
      return std::optional<OutputEnds>();
    }
    return tl::unexpected(std::move(writer).error());
  }
  OutputEnds ends;
  ends.writer = *std::move(writer);
  WV_TRY(const bool fifo, IsFifo(ends.writer));
  if (fifo) {
    WV_TRY(ends.own_reader, Open(path, O_RDONLY | O_NONBLOCK));
  } else if (fcntl(ends.writer.get(), F_SETFL, O_NONBLOCK | O_APPEND) != 0) {
    return SysError("fcntl " + path);
  }
  return std::optional<OutputEnds>(std::move(ends));
}

Result<UniqueFd> OpenLogFile(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  return Open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0644);
}

}  // namespace wyvern::shim
