# Compiler settings shared by every target.
option(WYVERN_TESTS "Build unit tests" ON)
option(WYVERN_FUZZ "Build libFuzzer targets (needs clang)" OFF)
option(WYVERN_COVERAGE "Count what the fuzz targets reach (needs clang)" OFF)
option(WYVERN_STATIC "Link products as static-pie" OFF)
set(WYVERN_SANITIZE "" CACHE STRING "Value for -fsanitize=")
set(WYVERN_ARCH ${CMAKE_SYSTEM_PROCESSOR} CACHE STRING "x86_64, aarch64 or riscv64")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Debug CACHE STRING "" FORCE)
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)

find_program(WYVERN_CCACHE ccache)
if(WYVERN_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${WYVERN_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${WYVERN_CCACHE})
endif()

add_compile_options(-Wall -Wextra -Werror -fstack-protector-strong -fno-omit-frame-pointer)
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>)
# Same sources, same bytes: no path of the build machine in the binaries.
add_compile_options(-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1 -D_FORTIFY_SOURCE=2 -ffunction-sections -fdata-sections")
set(CMAKE_C_FLAGS_RELEASE "-O2 -g1 -D_FORTIFY_SOURCE=2 -ffunction-sections -fdata-sections")
# The test presets choose fast builds: half the compiler's time of "-O1 -g".
set(WYVERN_DEBUG_FLAGS "-O1 -g" CACHE STRING "Flags of debug builds")
set(CMAKE_CXX_FLAGS_DEBUG ${WYVERN_DEBUG_FLAGS})
set(CMAKE_C_FLAGS_DEBUG ${WYVERN_DEBUG_FLAGS})
add_link_options(-Wl,-z,relro,-z,now -Wl,--gc-sections)

if(WYVERN_SANITIZE)
  add_compile_options(-fsanitize=${WYVERN_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${WYVERN_SANITIZE})
  add_compile_definitions(WV_SANITIZED=1)
  if(WYVERN_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # The warning that it does not see fences: where one is the only order, it may report a race that is none.
    add_compile_options(-Wno-tsan)
    # It sees variables that are not initialised where the sanitizer's calls hide that they are.
    add_compile_options(-Wno-maybe-uninitialized)
  endif()
endif()
if(WYVERN_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
  # clang 16 on libstdc++ 12: generated and third-party code may trip warnings that gcc does not have.
  add_compile_options(-Wno-unknown-warning-option)
endif()
if(WYVERN_COVERAGE)
  add_compile_options(-fprofile-instr-generate -fcoverage-mapping)
  add_link_options(-fprofile-instr-generate)
endif()
