#pragma once

#include <sys/wait.h>

#include <cerrno>

[[nodiscard]] inline bool no_child_is_left() { return ::waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD; }
