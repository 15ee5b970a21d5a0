#include "base/check.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace wyvern {

void CheckFailed(const char* what, const char* file, int line) {
  char text[512];
  const int length = snprintf(text, sizeof(text), "CHECK failed: %s at %s:%d\n", what, file, line);
  if (length > 0) {
    const size_t size =
        static_cast<size_t>(length) < sizeof(text) ? static_cast<size_t>(length) : sizeof(text) - 1;
    // Nothing can be done about a failure here.
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, size);
  }
  abort();
}

}  // namespace wyvern
