//! The objects behind the handles that programs get. A handle is a number that is never used twice, so a destroyed handle is
//! recognised.

use crate::card::Card;
use crate::config::Config;
use crate::status::Status;
use crate::work::Position;
use ptx_machine::Module;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

/// Everything that has a handle.
pub(crate) struct Handles {
    pub cards: Vec<Arc<Card>>,
    pub is_initialised: bool,
    next: usize,
    streams: HashMap<usize, Arc<Card>>,
    pub events: HashMap<usize, Event>,
    pub modules: HashMap<usize, (Arc<Card>, Arc<Module>)>,
    pub functions: HashMap<usize, Function>,
}

/// A mark on a stream.
#[derive(Clone)]
pub(crate) struct Event {
    pub card: Arc<Card>,
    /// Where it was recorded last, and when.
    pub recorded: Option<(Position, Instant)>,
}

/// A kernel of a loaded module.
#[derive(Clone)]
pub(crate) struct Function {
    pub card: Arc<Card>,
    pub module: Arc<Module>,
    pub kernel: usize,
    /// The handle of the module. Unloading the module also removes the function.
    pub of: usize,
    /// Maximum number of bytes of dynamic shared memory that a launch may ask for.
    pub most_dynamic: u32,
}

thread_local! {
    /// The current context of this thread: its card's number plus one, or 0 for none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Locks and returns all handles. The first call makes the card that `PTX_MACHINE` describes, or no card if the variable is
/// `none`.
pub(crate) fn handles() -> MutexGuard<'static, Handles> {
    static HANDLES: OnceLock<Mutex<Handles>> = OnceLock::new();
    let handles = HANDLES.get_or_init(|| {
        let text = std::env::var("PTX_MACHINE").unwrap_or_default();
        let cards = match text.as_str() {
            "none" => Vec::new(),
            text => match Config::parse(text) {
                Ok(config) => vec![Arc::new(Card::new(config))],
                Err(error) => panic!("PTX_MACHINE: {error}"),
            },
        };
        Mutex::new(Handles {
            cards,
            is_initialised: false,
            next: 0x1000,
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
        })
    });
    handles.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Handles {
    /// Returns a number that was never used.
    pub(crate) fn fresh(&mut self) -> usize {
        self.next += 16;
        self.next
    }

    pub(crate) fn card(&self, ordinal: i32) -> Result<Arc<Card>, Status> {
        let card = usize::try_from(ordinal).ok().and_then(|ordinal| self.cards.get(ordinal));
        card.cloned().ok_or(Status::INVALID_DEVICE)
    }

    /// Returns the card of the current thread's context.
    pub(crate) fn current(&self) -> Result<Arc<Card>, Status> {
        let current = CURRENT.get().checked_sub(1).and_then(|at| self.cards.get(at));
        current.cloned().ok_or(Status::INVALID_CONTEXT)
    }

    pub(crate) fn open_stream(&mut self) -> Result<usize, Status> {
        let card = self.current()?;
        let handle = self.fresh();
        card.open(handle);
        self.streams.insert(handle, card);
        Ok(handle)
    }

    /// Returns the card of a stream. For the default stream, this is the card of the current context.
    pub(crate) fn stream(&self, handle: usize) -> Result<Arc<Card>, Status> {
        match handle {
            0 => self.current(),
            handle => self.streams.get(&handle).cloned().ok_or(Status::INVALID_HANDLE),
        }
    }

    /// Forgets the handle of a stream. The default stream is not among the handles.
    pub(crate) fn forget_stream(&mut self, handle: usize) -> Result<(), Status> {
        self.streams.remove(&handle).map(drop).ok_or(Status::INVALID_HANDLE)
    }
}

/// Returns the current context of this thread, or 0.
pub(crate) fn current_context() -> usize {
    CURRENT.get()
}

pub(crate) fn set_current_context(context: usize) {
    CURRENT.set(context);
}
