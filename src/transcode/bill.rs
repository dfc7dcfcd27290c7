//! The memory that a message takes while it is made of JSON: it is bounded, and somebody pays for it as it is taken.

use std::cell::{Cell, RefCell};

use super::Pay;
use super::encoding::heaviest;
use crate::jose::json;

/// So much is paid for at once.
const STEP: usize = 64 * 1024;

/// A tree of JSON may take so many times what a message may. Of numbers that are the shortest, the tree is the larger one.
const TREE: usize = 4;

/// See the module.
pub struct Bill<'p> {
    pay: RefCell<&'p mut Pay<'p>>,
    /// How much the message may take yet. `None`: it is over, or nobody pays.
    left: Cell<Option<usize>>,
    /// What was taken and is not paid for.
    owed: Cell<usize>,
    most_tree: usize,
}

impl<'p> Bill<'p> {
    /// For a message of at most so many bytes.
    pub fn new(max_message: usize, pay: &'p mut Pay<'p>) -> Bill<'p> {
        let most = heaviest(max_message);
        let most_tree = most.saturating_mul(TREE);
        Bill { pay: RefCell::new(pay), left: Cell::new(Some(most)), owed: Cell::new(0), most_tree }
    }

    /// Whether it was more than it may be, or than is paid for.
    pub fn is_over(&self) -> bool {
        self.left.get().is_none()
    }

    /// Whether the message may take so many bytes more.
    pub fn takes(&self, bytes: usize) -> bool {
        self.left.set(self.left.get().and_then(|left| left.checked_sub(bytes)));
        self.owe(bytes);
        !self.is_over()
    }

    /// Whether the tree of this text may be made, which is held beside the message.
    pub fn takes_tree(&self, text: &[u8]) -> bool {
        let takes = json::takes(text);
        if takes > self.most_tree {
            self.left.set(None);
        }
        self.owe(takes);
        !self.is_over()
    }

    fn owe(&self, bytes: usize) {
        let owed = self.owed.get().saturating_add(bytes);
        self.owed.set(owed);
        if owed >= STEP {
            self.settle();
        }
    }

    /// Pays for what was taken so far. Whether all of it could be.
    pub fn settle(&self) -> bool {
        let owed = self.owed.take();
        if owed > 0 && !self.is_over() && !(self.pay.borrow_mut())(owed) {
            self.left.set(None);
        }
        !self.is_over()
    }
}
