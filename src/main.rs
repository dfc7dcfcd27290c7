//! The command line: arguments in, exit code out. What the commands do is in the library.

use std::alloc::{GlobalAlloc, Layout};
use std::process::ExitCode;

use libmimalloc_sys::{mi_malloc, mi_zalloc};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// mimalloc, asked for an alignment only where one is wanted.
///
/// Its binding asks for one with every allocation. Blocks of up to a kilobyte are looked at once more for it; larger ones, unless their size
/// is a power of two, are made longer and shifted, which costs several times as much as the block: together some 440 instructions of a
/// plain request's.
struct Allocator;

/// What every block of mimalloc's is aligned to: free ones hold a pointer.
const WORD: usize = align_of::<usize>();

#[allow(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: all blocks are mimalloc's, which takes back, and makes larger, what it gave by whichever of its calls.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > WORD {
            return unsafe { MiMalloc.alloc(layout) };
        }
        unsafe { mi_malloc(layout.size()) }.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() > WORD {
            return unsafe { MiMalloc.alloc_zeroed(layout) };
        }
        unsafe { mi_zalloc(layout.size()) }.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    // Where no more than a word's alignment is asked for, it looks at that first and does without.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe { MiMalloc.realloc(block, layout, size) }
    }
}

fn main() -> ExitCode {
    portcullis::cli::main()
}
