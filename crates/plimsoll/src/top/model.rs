//! What `top` knows and how it changes.

use plimsoll_api::{Explanation, ServiceSummary, Status};

/// Something that changes the model.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// The agent's status.
    Status(Box<Status>),
    /// The endpoints of the Service that is shown.
    Endpoints(Vec<Explanation>),
    /// The agent did not answer.
    Problem(String),
    Up,
    Down,
    Enter,
    Back,
    Help,
    Quit,
}

/// What `top` knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    status: Status,
    /// The chosen line of the list of Services.
    chosen: usize,
    /// The Service whose endpoints are shown, instead of the list.
    service: Option<String>,
    endpoints: Vec<Explanation>,
    problem: Option<String>,
    help: bool,
    done: bool,
}

impl Model {
    /// Begins with the list, or with one Service's endpoints.
    pub(super) fn new(service: Option<String>) -> Model {
        Model { service, ..Model::default() }
    }

    pub(super) fn update(&mut self, message: Message) {
        let is_key = !matches!(message, Message::Status(_) | Message::Endpoints(_) | Message::Problem(_));
        if is_key && std::mem::take(&mut self.help) && !matches!(message, Message::Quit) {
            return;
        }
        match message {
            Message::Help => self.help = true,
            Message::Status(status) => {
                self.status = *status;
                self.problem = None;
                self.chosen = self.chosen.min(self.status.services.len().saturating_sub(1));
            }
            Message::Endpoints(endpoints) => {
                self.endpoints = endpoints;
                self.problem = None;
            }
            Message::Problem(problem) => self.problem = Some(problem),
            Message::Up => self.chosen = self.chosen.saturating_sub(1),
            Message::Down => {
                self.chosen = (self.chosen + 1).min(self.status.services.len().saturating_sub(1));
            }
            Message::Enter if self.service.is_none() => {
                self.service = self.status.services.get(self.chosen).map(|service| service.service.clone());
                self.endpoints.clear();
            }
            Message::Enter => {}
            Message::Back => self.service = None,
            Message::Quit => self.done = true,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the help is shown, instead of all else.
    pub(super) fn wants_help(&self) -> bool {
        self.help
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// Whether what is to be shown has not been asked for yet.
    pub(super) fn wants_endpoints(&self) -> bool {
        self.service.is_some() == self.endpoints.is_empty()
    }

    pub(super) fn node(&self) -> &str {
        &self.status.node
    }

    pub(super) fn services(&self) -> &[ServiceSummary] {
        &self.status.services
    }

    pub(super) fn chosen(&self) -> usize {
        self.chosen
    }

    pub(super) fn endpoints(&self) -> &[Explanation] {
        &self.endpoints
    }
}
